"""Which modules of a network of anybody's are its layers, found by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from optimum_ane.nn.layer_stack import LayerStack


def find_layers(module: nn.Module, run: Callable[[], Any]) -> LayerStack | None:
    """Finds the layers of a network: a list of modules of one class that are called one after another.

    A list counts where each of its modules is called once, in their order, with a tensor (B, S, C) that has the shape
    of what it returns. Of several lists it is the one with the most parameters.

    Args:
        module: The network.
        run: Calls it once.

    Returns:
        None where no list of modules is so: of layers that share their weights, say, or that narrow the sequence.
    """
    candidates = sorted(_lists(module), key=_parameters, reverse=True)
    calls: list[tuple[nn.Module, tuple[int, ...] | None, tuple[int, ...] | None]] = []

    def leave(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        calls.append((layer, _shape(first_argument(arguments, named)), _shape(first_tensor(result))))

    with ExitStack() as hooks, torch.no_grad():
        for layer in dict.fromkeys(layer for layers in candidates for layer in layers):
            hooks.callback(layer.register_forward_hook(leave, with_kwargs=True).remove)
        run()
    for layers in candidates:
        own = [call for call in calls if call[0] in set(layers)]
        shapes = {shape for _, entering, leaving in own for shape in (entering, leaving)}
        if [call[0] for call in own] == layers and len(shapes) == 1 and len(shapes.pop() or ()) == 3:
            return LayerStack(tuple(layers), layers[-1])
    return None


def first_argument(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """The first tensor that a module was called with, by position or by name."""
    return first_tensor((*arguments, *named.values()))


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of what a module takes or returns; None where it is none and holds none at the top."""
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((each for each in values if isinstance(each, Tensor)), None)


def _lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    for each in module.modules():
        if isinstance(each, nn.ModuleList | nn.Sequential) and len({type(child) for child in each}) == 1:
            yield list(each)


def _parameters(layers: list[nn.Module]) -> int:
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)
