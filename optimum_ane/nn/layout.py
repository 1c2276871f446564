"""The two crossings between the usual (B, S, C) and the engine's (B, C, 1, S)."""

from torch import Tensor


def to_bc1s(x: Tensor) -> Tensor:
    """(B, S, C) → (B, C, 1, S)."""
    return x.transpose(1, 2).unsqueeze(2)


def from_bc1s(x: Tensor) -> Tensor:
    """(B, C, 1, S) → (B, S, C)."""
    return x.squeeze(2).transpose(1, 2)
