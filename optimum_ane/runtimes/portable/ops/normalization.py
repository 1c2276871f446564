"""Normalisation. Sums and the division run in float32; an fp16 result is rounded once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Call, op, prepare


@op("layer_norm")
def layer_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    axes: Sequence[int] | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalises over some axes, all where none is given; gamma and beta have the extents of those axes, in order.

    The axes are moved last, which costs nothing where they run fastest in memory already.
    """
    last = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    order = [axis for axis in range(x.ndim) if axis not in last] + last
    moved = x.permute(order)
    shape = moved.shape[x.ndim - len(last) :]
    result = F.layer_norm(moved, shape, _shaped(gamma, shape), _shaped(beta, shape), epsilon)
    return result.permute([order.index(axis) for axis in range(x.ndim)])


@prepare("layer_norm")
def _constant_norm(call: Call) -> Callable[[Tensor], Tensor] | None:
    """A norm over axes of declared extents, with weights known at load: the order of axes is found once."""
    shape = call.shape("x")
    if call.dynamic != ("x",) or not shape or not call.types["x"].dtype.is_float:
        return None
    rank = len(shape)
    last = sorted(axis % rank for axis in call.python("axes", range(rank)))
    order = [axis for axis in range(rank) if axis not in last] + last
    extents = [shape[axis] for axis in last]
    if min(extents, default=-1) < 0:
        return None
    weights = [call.constants[name].tensor() if name in call.constants else None for name in ("gamma", "beta")]
    gamma, beta = (_shaped(weight, extents) for weight in weights)
    epsilon = call.python("epsilon", 1e-5)
    if order == [*range(rank)]:
        return lambda x: F.layer_norm(x, extents, gamma, beta, epsilon)
    inverse = [order.index(axis) for axis in range(rank)]
    return lambda x: F.layer_norm(x.permute(order), extents, gamma, beta, epsilon).permute(inverse)


def _shaped(parameter: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return None if parameter is None else parameter.reshape(tuple(shape))


@op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalises each channel (axis 1) by a mean and a variance that are given."""
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@op("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Normalises each channel of each row over the axes after the second."""
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    shape = (-1, *[1] * len(axes))
    if gamma is not None:
        result = result * gamma.view(shape)
    return result if beta is None else result + beta.view(shape)


@op("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divides by (k + alpha · mean of squares) ^ beta; the mean is over `size` channels around each, zeros beyond.

    Of an even number of channels, more lie before than after.
    """
    squares = x.square().flatten(2).transpose(1, 2)
    mean = F.avg_pool1d(F.pad(squares, (size // 2, (size - 1) // 2)), size, 1)
    return x / (k + alpha * mean.transpose(1, 2).reshape(x.shape)).pow(beta)


@op("l2_norm")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divides by the root of the sum of squares over the last three axes."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)
