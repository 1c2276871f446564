"""A module for one fixed sequence length, over the parameters of another."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def at_length(module: nn.Module, length: int) -> nn.Module:
    """Copies a module tree, not its parameters, and fixes the copy's sequence length.

    Args:
        module: A text encoder, or a head on one; it stays as it was.
        length: S; the copy takes inputs of this length only.

    Returns:
        A module over the same parameters and buffers.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    view = copy.deepcopy(module, shared)
    view.fix_length(length)
    return view
