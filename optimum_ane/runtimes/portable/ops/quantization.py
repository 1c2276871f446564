"""Quantisation of activations: floats to eight-bit integers and back.

A scale and a zero point are one number, or one for each place along an axis. All is computed in float32, so that the
quotient of an fp16 program is not rounded to fp16 before it is rounded to an integer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op
from optimum_ane.runtimes.portable.values import by_name


def _along(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """Gives a vector the rank of a tensor, its numbers along an axis of it; leaves a scalar as it is."""
    if parameter.ndim == 0:
        return parameter
    if axis is None:
        raise ValueError(f"a scale or zero point of shape {tuple(parameter.shape)} needs an axis")
    return parameter.view([-1 if i == axis % rank else 1 for i in range(rank)])


@op("quantize", exact=True)
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """Returns input / scale rounded to the nearest integer (halves to even), plus the zero point, within the type.

    Args:
        input: Of fp16 or fp32.
        scale: A scalar, or a vector along `axis`.
        output_dtype: `int8` or `uint8`.
        zero_point: Of the output's type, shaped as the scale; 0 where None.
        axis: Where scale and zero point are vectors.
    """
    carrier = by_name(output_dtype).carrier
    limits = torch.iinfo(carrier)
    quotient = torch.round(input / _along(scale, input.ndim, axis))
    if zero_point is not None:
        quotient = quotient + _along(zero_point, input.ndim, axis)
    # What is no number becomes 0, as in numpy.
    return quotient.nan_to_num(0.0).clamp(limits.min, limits.max).to(carrier)


@op("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """Returns (input − zero point) · scale, rounded once; parameters as in `quantize`."""
    values = input.float()
    if zero_point is not None:
        values = values - _along(zero_point, input.ndim, axis).float()
    return values * _along(scale, input.ndim, axis)
