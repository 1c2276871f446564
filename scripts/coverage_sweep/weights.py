"""Seeded weights under which every part of a network shows in its answer."""

from __future__ import annotations

import math

import torch
from torch import nn

GAIN = 1.2
"""What a matrix does to the size of what passes through it."""

_UNSCALED_QUERIES = (".q.", ".attn.attention.q_proj.")
"""Projections of queries by attentions that do not divide their scores by the root of the head's width (T5, GPT-Neo):
their initialization does it."""


def redraw(model: nn.Module, seed: int, gain: float = GAIN) -> None:
    """Draws the parameters anew, in place: initializations leave biases, norms and layer scales at 0, 1 or 10⁻⁶.

    A matrix nearly keeps the size of what passes through it, biases have a deviation of 0.1, factors lie about 1.

    Args:
        model: Any; buffers stay as they are.
        seed: Of the draw.
        gain: Of matrices and of factors.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                deviation = gain / math.sqrt(parameter[0].numel())
                if "embed" in name.rsplit(".", 2)[-2 if name.count(".") else -1] or parameter.shape[0] == 1:
                    deviation = 0.5
                if any(part in f".{name}" for part in _UNSCALED_QUERIES) and _is_unscaled(model):
                    deviation /= 4
                parameter.copy_(noise * deviation)
            elif "bias" in name or _is_about_zero(parameter):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(gain / GAIN * (1 + 0.2 * noise))


def _is_about_zero(parameter: nn.Parameter) -> bool:
    """Whether a vector was drawn at random about 0: no factor, which starts as a constant."""
    return parameter.numel() > 1 and bool(parameter.mean().abs() < parameter.std())


def _is_unscaled(model: nn.Module) -> bool:
    kind = type(model).__name__
    return any(part in kind for part in ("T5", "Switch", "Udop", "GPTNeoModel"))
