"""States: what a program keeps from one prediction to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Cell, op


@op("read_state", exact=True)
def read_state(input: Cell) -> Tensor:
    """Returns the present value. It is a snapshot without a copy: a state is replaced, never written into."""
    return input.tensor


@op("write_state", exact=True)
def write_state(input: Cell, data: Tensor) -> None:
    """Replaces the value by a copy, so that a state has memory of its own.

    The data may be the caller's array, a constant of the model, a part of a larger tensor, or go to two states.
    """
    input.tensor = data.clone(memory_format=torch.contiguous_format)
