"""Names for the hidden states of a traced module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "hidden_state_"


@contextmanager
def named_hidden_states(module: nn.Module) -> Iterator[None]:
    """Names the hidden states in a trace that is made while the block runs.

    The layers are the children of the innermost `nn.ModuleList`s, and their stack is the module that holds the first
    outermost one. A layer that is used several times counts each time. A module without layers gets no names.
    """
    stack = next((each for each in module.modules() if _lists(each)), None)
    with ExitStack() as hooks:
        if stack is not None:
            count = 0

            def name_next(value: Tensor) -> None:
                nonlocal count
                torch._C._get_value_trace(value).setDebugName(f"{_NAME}{count}")  # type: ignore[attr-defined]
                count += 1

            for layer in _layers(stack):
                handle = layer.register_forward_pre_hook(lambda _, arguments: name_next(arguments[0]))
                hooks.callback(handle.remove)
            handle = stack.register_forward_hook(lambda _, arguments, result: name_next(result))
            hooks.callback(handle.remove)
        yield


def _lists(module: nn.Module) -> list[nn.ModuleList]:
    return [child for child in module.children() if isinstance(child, nn.ModuleList)]


def _layers(stack: nn.Module) -> Iterator[nn.Module]:
    for layer in (layer for each in _lists(stack) for layer in each):
        if _lists(layer):
            yield from _layers(layer)
        else:
            yield layer
