"""States: what a program keeps from one prediction to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Cell, op


@op("read_state", exact=True)
def read_state(input: Cell) -> Tensor:
    """Returns the present value, without a copy: it is written into only where nothing reads it afterwards."""
    return input.tensor


@op("write_state", exact=True)
def write_state(input: Cell, data: Tensor) -> None:
    """Replaces the value by a copy, so that a state has memory of its own.

    The data may be the caller's array, a constant of the model, a part of a larger tensor, or go to two states. It may
    also be the state's own tensor, into which an update has been written; then there is nothing left to do.
    """
    if data is not input.tensor:
        input.tensor = data.clone(memory_format=torch.contiguous_format)


def take_state(input: Cell, data: Tensor) -> None:
    """Does what `write_state` does with data in memory of its own that nothing else will use: it becomes the state."""
    input.tensor = data.contiguous()
