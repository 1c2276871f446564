"""How large the values inside a model become, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from optimum_ane.nn.find_layers import first_tensor


@contextmanager
def recorded_activations(model: nn.Module) -> Iterator[dict[str, float]]:
    """Records the largest absolute values while the block runs.

    Args:
        model: Any network.

    Yields:
        By the path of each module, of what it returns, and, with ` (input)` behind the path, of what a linear layer
        is given; modules that return no numbers are left out. NaN and infinity are recorded as infinity.
    """
    peaks: dict[str, float] = {}

    def look(name: str, value: Tensor | None) -> None:
        if value is None or not value.is_floating_point() or not value.numel():
            return
        peak = float(torch.linalg.vector_norm(value.detach(), ord=float("inf")))
        peaks[name] = max(peaks.get(name, 0.0), peak if peak == peak else float("inf"))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            handle = module.register_forward_hook(lambda _, __, result, path=path: look(path, first_tensor(result)))
            hooks.callback(handle.remove)
            if isinstance(module, nn.Linear):
                given = f"{path} (input)"
                before = module.register_forward_pre_hook(
                    lambda _, arguments, given=given: look(given, first_tensor(arguments))
                )
                hooks.callback(before.remove)
        yield peaks
