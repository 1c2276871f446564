"""Activations. An fp16 result is rounded once, after the whole function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import builtin, op

builtin("relu", torch.relu, "x", exact=True)
builtin("sigmoid", torch.sigmoid, "x")
builtin("silu", F.silu, "x")
builtin("softsign", F.softsign, "x")


@op("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Returns x · Φ(x), or one of its two approximations; of fp16 it is computed in float32 and rounded once."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        wide = x.float()
        return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)
    raise ValueError(f"unknown mode {mode!r}")


@op("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Normalises exponentials along an axis.

    torch copies a tensor whose memory order is not that of its axes. Where the axis is the one that runs fastest in
    memory, as that of channels in this runtime's (B, C, 1, S) tensors, a transposed view spares the copy.
    """
    if x.ndim > 1 and x.stride(axis) == 1 and axis not in (-1, x.ndim - 1):
        return torch.softmax(x.movedim(axis, -1), -1).movedim(-1, axis)
    return torch.softmax(x, axis)


@op("softplus")
def softplus(x: Tensor) -> Tensor:
    """Returns ln(1 + exp(x)) without overflow."""
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-torch.abs(x)))


@op("relu6", exact=True)
def relu6(x: Tensor) -> Tensor:
    """Bounds x to [0, 6]."""
    return torch.clamp(x, 0, 6)


@op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Scales negative values by alpha and bounds all above by beta."""
    return torch.clamp(torch.where(x < 0, x * alpha, x), max=beta)


@op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """Scales negative values by alpha."""
    return torch.where(x < 0, x * alpha, x)


@op("thresholded_relu", exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Keeps the values of at least alpha; the others become 0."""
    return torch.where(x < alpha, torch.zeros_like(x), x)


@op("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    """Returns x where it is positive and alpha · (exp(x) − 1) elsewhere."""
    return torch.where(x < 0, alpha * torch.expm1(x), x)


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Scales negative values by alpha, one number for each channel (axis 1)."""
    return torch.where(x < 0, x * alpha.view(-1, *[1] * (x.ndim - 2)), x)


@op("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns alpha · x + beta."""
    return x * alpha + beta


@op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns alpha · tanh(beta · x)."""
    return alpha * torch.tanh(x * beta)


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns alpha · x + beta, bounded to [0, 1]."""
    return torch.clamp(x * alpha + beta, 0, 1)


@op("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Returns alpha · ln(1 + exp(beta · x)), alpha and beta one number for each channel (axis 1)."""
    shape = (-1, *[1] * (x.ndim - 2))
    return alpha.view(shape) * softplus(x * beta.view(shape))
