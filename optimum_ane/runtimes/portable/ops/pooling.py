"""Pooling over one to three axes. Sums run in float32; an fp16 result is rounded once, at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.ops.linear import paddings
from optimum_ane.runtimes.portable.registry import op

_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op("max_pool", exact=True)
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Returns the largest value under each window; the padding is −∞.

    Args:
        x: (batch, channels, *spatial).
        kernel_sizes: The window's extent in each spatial axis.
        pad_type: As in `conv`.
        strides: One for each spatial axis.
        pad: As in `conv`.
        ceil_mode: Whether a window may begin in the input and end beyond the padding.
    """
    strides = strides or [1] * (x.ndim - 2)
    declared, overhang = _margins(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    # torch pads by at most half a kernel, and alike on both sides.
    padded = _padded(_padded(x, declared, -math.inf), overhang, -math.inf)
    return _MAXIMUM[x.ndim - 2](padded, kernel_sizes, strides)


@op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Returns the mean under each window.

    Args:
        x: (batch, channels, *spatial).
        kernel_sizes: As in `max_pool`.
        pad_type: As in `max_pool`.
        strides: As in `max_pool`.
        pad: As in `max_pool`.
        exclude_padding_from_average: Whether the zeros of the padding count in the mean. What a window covers beyond
            the padding (`ceil_mode`) never does, as in torch.
        ceil_mode: As in `max_pool`.
    """
    axes = x.ndim - 2
    strides = strides or [1] * axes
    declared, overhang = _margins(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    average = _AVERAGE[axes]
    mean = average(_padded(_padded(x, declared, 0.0), overhang, 0.0), kernel_sizes, strides)
    uncounted = [*overhang, *(declared if exclude_padding_from_average else [])]
    if not any(before or after for before, after in uncounted):
        return mean
    ones = x.new_ones(1, 1, *x.shape[2:])
    counted = _padded(_padded(ones, declared, 0.0 if exclude_padding_from_average else 1.0), overhang, 0.0)
    # A window that counts nothing has the mean 0: the bound below is under the share of one element in any window.
    return mean / average(counted, kernel_sizes, strides).clamp(min=1e-12)


@op("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Returns the root of the sum of squares under each window; the parameters are those of `max_pool`."""
    strides = strides or [1] * (x.ndim - 2)
    declared, overhang = _margins(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    padded = _padded(_padded(x, declared, 0.0), overhang, 0.0)
    mean = _AVERAGE[x.ndim - 2](padded.square(), kernel_sizes, strides)
    return (mean * math.prod(kernel_sizes)).sqrt()


Margins = list[tuple[int, int]]


def _margins(
    x: Tensor,
    kernels: Sequence[int],
    pad_type: str,
    strides: Sequence[int],
    pad: Sequence[int] | None,
    ceil_mode: bool,
) -> tuple[Margins, Margins]:
    """Returns the declared padding of each axis, and what the last window covers beyond it."""
    declared = paddings(pad_type, pad, x.shape[2:], kernels, strides)
    overhang = [(0, 0)] * len(kernels)
    if ceil_mode:
        for axis, (size, kernel, stride) in enumerate(zip(x.shape[2:], kernels, strides, strict=True)):
            before, after = declared[axis]
            total = size + before + after
            count = -(-(total - kernel) // stride) + 1
            # coremltools' shape inference: a window that begins beyond the input is dropped, where there is padding.
            if before + after and (count - 1) * stride >= size + (before + after) / 2:
                count -= 1
            overhang[axis] = (0, max(0, (count - 1) * stride + kernel - total))
    return declared, overhang


def _padded(x: Tensor, margins: Margins, value: float) -> Tensor:
    if not any(before or after for before, after in margins):
        return x
    return F.pad(x, [amount for pair in reversed(margins) for amount in pair], value=value)
