"""Names for the hidden states of a traced module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.nn import first_argument, first_tensor
from optimum_ane.runtimes.session import HIDDEN_STATE

if TYPE_CHECKING:
    from torch import Tensor, nn

_NO_OPERATIONS = ("aten::contiguous", "aten::detach", "aten::dropout")
"""Of these nothing is left in a program, their names neither: what they are given bears the name."""


@contextmanager
def named_hidden_states(module: nn.Module) -> Iterator[None]:
    """Names the hidden states in a trace that is made while the block runs, as `hidden_states_met` does."""
    with hidden_states_met(module, _name):
        yield


@contextmanager
def hidden_states_met(module: nn.Module, meet: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hands on each hidden state that is met while the block runs, with its name, `hidden_state_0` and so on.

    Where they are found is what the module's `layer_stack()` says, an `nn.LayerStack`. Each use of a layer counts.
    None of a stock module, whose layers could not be told, leaves the trace without such names.

    Raises:
        UnsupportedModelError: The module declares no layers, or the trace did not pass through those that it declares.
    """
    kind = type(module).__name__
    declare = getattr(module, "layer_stack", None)
    if declare is None:
        raise UnsupportedModelError(f"{kind} declares no layers: it needs a layer_stack() that tells its states")
    stack = declare()
    if stack is None:
        yield
        return
    names = (f"{HIDDEN_STATE}{index}" for index in count())
    called: set[nn.Module] = set()
    last = 0

    def enter(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        meet(next(names), _given(first_argument(arguments, named), kind))
        called.add(layer)

    def leave(output: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        nonlocal last
        meet(next(names), _given(first_tensor(result), kind))
        last += 1

    with ExitStack() as hooks:
        for layer in dict.fromkeys(stack.layers):
            hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        hooks.callback(stack.output.register_forward_hook(leave).remove)
        yield
    if not stack.layers or len(called) < len(set(stack.layers)) or last != 1:
        raise UnsupportedModelError(
            f"{kind} declares {len(set(stack.layers))} layers and the trace passed through {len(called)} of them, and "
            f"{last} times through their output: its layer_stack() does not tell what its forward does"
        )


def _given(value: Tensor | None, kind: str) -> Tensor:
    if value is None:
        raise UnsupportedModelError(f"a layer that {kind} declares takes or gives no tensor")
    return value


def _name(name: str, value: Tensor) -> None:
    traced = torch._C._get_value_trace(value)  # type: ignore[attr-defined]
    while traced.node().kind() in _NO_OPERATIONS:
        traced = next(traced.node().inputs())
    traced.setDebugName(name)
