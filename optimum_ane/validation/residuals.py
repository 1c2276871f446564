"""How large the residual stream of a model becomes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from optimum_ane.nn.find_layers import find_layers, first_tensor


@contextmanager
def recorded_residuals(model: nn.Module, run: Callable[[], Any]) -> Iterator[list[float]]:
    """Records the largest absolute value that leaves each layer while the block runs.

    Args:
        model: Any network.
        run: Calls it once, so that its layers are found.

    Yields:
        One number for each layer, in order; empty where the layers could not be told.
    """
    stack = find_layers(model, run)
    layers = [] if stack is None else list(stack.layers)
    peaks = [0.0] * len(layers)

    def look(index: int, result: Any) -> None:
        value = first_tensor(result)
        if value is not None and value.numel():
            peaks[index] = max(peaks[index], float(torch.linalg.vector_norm(value.detach(), ord=float("inf"))))

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            handle = layer.register_forward_hook(lambda _, __, result, index=index: look(index, result))
            hooks.callback(handle.remove)
        yield peaks
