"""Convolutions and products of matrices. Sums run in float32; an fp16 result is rounded once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.kernels import dense
from optimum_ane.runtimes.portable.registry import Call, Prepared, op, prepare

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


_SLICE = 2**20


def _mixed(*tensors: Tensor | None) -> bool:
    """Tells whether integers stand beside floats."""
    return len({tensor.is_floating_point() for tensor in tensors if tensor is not None}) > 1


@op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies (…, inputs) by a weight of (outputs, inputs) and adds the bias.

    Integers beside floats, which iOS 17 allows, are multiplied in float64, as in coremltools' value inference; the
    declared type of the result is that of x.
    """
    if not _mixed(x, weight, bias):
        return F.linear(x, weight, bias)
    # A slice of the weight at a time: a copy of it in float64 would take twice the memory of the weight.
    wide, rows = x.double(), max(1, _SLICE // max(1, weight.shape[-1]))
    product = torch.cat([F.linear(wide, part.double()) for part in weight.split(rows)], -1)
    return product if bias is None else product + bias


@prepare("linear")
def _constant_linear(call: Call) -> Callable[[Tensor], Tensor] | Prepared | None:
    if call.dynamic != ("x",) or "weight" not in call.constants or not call.all_float("x", "weight", "bias"):
        return None
    return dense(call, call.constants["weight"], call.constants.get("bias"), axis=-1)


@op("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Multiplies matrices as numpy does; a transposition leaves an operand of rank 1 alone.

    Integers beside floats are multiplied as in `linear`; the declared type of the result is that of the operand which
    is no constant.
    """
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x.double(), y.double()) if _mixed(x, y) else torch.matmul(x, y)


@prepare("matmul")
def _constant_matmul(call: Call) -> Callable[[Tensor], Tensor] | Prepared | None:
    """Multiplication of rows by a constant matrix is a linear layer."""
    if call.dynamic != ("x",) or call.python("transpose_x", False):
        return None
    if len(call.shape("y")) != 2 or len(call.shape("x")) < 2 or not call.all_float("x", "y"):
        return None
    transposed = not call.python("transpose_y", False)
    return dense(call, call.constants["y"], None, axis=-1, transposed=transposed)


@op("einsum")
def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """Computes a product in Einstein's notation."""
    return torch.einsum(equation, *values)


@prepare("einsum")
def _product_over_channels(call: Call) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The one product that MIL allows, "bchw,bwhu->bchu" in any letters, as a product of matrices.

    It is computed transposed, so that axis 1 of the result runs fastest in memory: the order in which the convolution
    above leaves its result, in which the softmax over axis 1 wants it, and which needs no copy in between.
    """
    if len(call.dynamic) != 2 or not is_product_over_channels(call.python("equation", "")):
        return None

    def product(a: Tensor, b: Tensor) -> Tensor:
        # a (B, C, H, W), b (B, W, H, U) -> (B, C, H, U); H, or B, may be 1 in one of them.
        if a.shape[0] == a.shape[2] == b.shape[0] == b.shape[2] == 1:
            return torch.mm(b[0, :, 0].t(), a[0, :, 0].t())[None, None].permute(0, 3, 1, 2)
        return torch.matmul(b.permute(0, 2, 3, 1), a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return product


def is_product_over_channels(equation: str) -> bool:
    """Whether an equation is "bchw,bwhu->bchu" in any letters."""
    left, _, out = equation.replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    if not (len(first) == len(second) == len(out) == 4 and len(set(first)) == 4 and len(set(second)) == 4):
        return False
    u = second[3]
    swapped = first[0] + first[3] + first[2]
    return second[:3] == swapped and u not in first and out == first[:3] + u


@op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolves over one to three axes.

    Args:
        x: (batch, channels in, *spatial).
        weight: (channels out, channels in / groups, *kernel).
        bias: (channels out,).
        strides: One for each spatial axis.
        pad_type: `valid`, `custom` (as `pad` says), `same`, or `same_lower` (an odd element goes before).
        pad: Before and after for each spatial axis, in order.
        dilations: One for each spatial axis.
        groups: In how many groups channels convolve.
    """
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    extents = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(weight.shape[2:], dilations, strict=True)]
    padding = paddings(pad_type, pad, x.shape[2:], extents, strides)
    if any(before != after for before, after in padding):
        x = F.pad(x, [amount for pair in reversed(padding) for amount in pair])
        padding = [(0, 0)] * axes
    amounts = [before for before, _ in padding]
    return _CONVOLUTIONS[axes](x, weight, bias, strides, amounts, dilations, groups)


@op("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    nbits: int = 8,
    bias: Tensor | None = None,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolves with weight · quant_scale + quant_bias, the weight in integers; the other parameters are `conv`'s.

    Args:
        x: As in `conv`.
        weight: As in `conv`, uint8.
        quantization_type: `linear`; for the other type, `lut`, MIL states neither a table nor its place.
        quant_scale: One number, one for each channel out, or anything that broadcasts with the weight.
        quant_bias: Likewise.
        nbits: How many bits of an element of the weight are used; it takes a byte all the same.
        bias: As in `conv`.
        strides: As in `conv`.
        pad_type: As in `conv`.
        pad: As in `conv`.
        dilations: As in `conv`.
        groups: As in `conv`.
    """
    if quantization_type != "linear":
        raise ValueError(f"quantization type {quantization_type!r} is not defined")
    scale, shift = (
        q.view(-1, *[1] * (weight.ndim - 1)) if q.ndim == 1 and q.numel() > 1 else q for q in (quant_scale, quant_bias)
    )
    floats = weight.float() * scale + shift
    return conv(x, floats, None if bias is None else bias.float(), strides, pad_type, pad, dilations, groups)


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Undoes a convolution's change of shape, over one to three axes.

    Args:
        x: (batch, channels in, *spatial).
        weight: (channels in, channels out / groups, *kernel).
        bias: (channels out,).
        pad: What `custom` cuts off before and after each spatial axis.
        output_shape: The whole shape of the result. Where it is larger than the kernel reaches, zeros follow, to
            which the bias is added as well.
        pad_type: `valid` keeps all that the kernel reaches, `same` leaves stride × extent, an odd surplus cut off
            at the end; `custom` as `pad` says.
        strides: One for each spatial axis.
        dilations: One for each spatial axis.
        groups: In how many groups channels convolve.
    """
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    if pad_type not in ("valid", "custom", "same"):
        raise ValueError(f"unknown pad_type {pad_type!r}")
    whole = _TRANSPOSED[axes](x, weight, None, strides, 0, 0, groups, dilations)
    margins: list[int] = []
    for axis, full in enumerate(whole.shape[2:]):
        if pad_type == "custom":
            before, after = (pad or [0] * (2 * axes))[2 * axis : 2 * axis + 2]
            size = output_shape[axis + 2] if output_shape else full - before - after
        else:
            wanted = full if pad_type == "valid" else x.shape[axis + 2] * strides[axis]
            size = output_shape[axis + 2] if output_shape else wanted
            before = max(full - size, 0) // 2 if pad_type == "same" else 0
        margins = [-before, size - full + before, *margins]  # torch counts axes from the last
    if any(margins):
        whole = F.pad(whole, margins)
    return whole if bias is None else whole + bias.view(-1, *[1] * axes)


def paddings(
    pad_type: str, pad: Sequence[int] | None, shape: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Returns the padding before and after each spatial axis, of a convolution or a pooling.

    Args:
        pad_type: As `conv` takes it.
        pad: As `conv` takes it.
        shape: The spatial extents of the input.
        extents: How much of each axis the (dilated) kernel covers.
        strides: One for each axis.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(shape)
    if pad_type == "custom":
        amounts = list(pad or [0] * (2 * len(shape)))
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"unknown pad_type {pad_type!r}")
    result = []
    for size, extent, stride in zip(shape, extents, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if pad_type == "same" else (large, small))
    return result


@prepare("conv")
def _pointwise(call: Call) -> Callable[[Tensor], Tensor] | Prepared | None:
    """A convolution of kernel 1 is a linear layer over axis 1.

    Its result has that axis fastest in memory: (B, C, 1, S) lies as (B, 1, S, C), so that chains of such layers, and
    the norms and softmaxes over axis 1 between them, need no copy.
    """
    shape = call.shape("weight")
    axes = len(shape) - 2
    if call.dynamic != ("x",) or axes < 1 or any(extent != 1 for extent in shape[2:]):
        return None
    if call.python("groups", 1) != 1 or any(stride != 1 for stride in call.python("strides", ())):
        return None
    if call.python("pad_type", "valid") == "custom" and any(call.python("pad", ())):
        return None
    rows = dense(call, call.constants["weight"], call.constants.get("bias"), axis=1)
    to_last = (0, *range(2, axes + 2), 1)
    to_second = (0, axes + 1, *range(1, axes + 1))

    def along_second(rows: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: rows(x.permute(to_last)).permute(to_second)

    if isinstance(rows, Prepared):
        return Prepared(along_second(rows.call), along_second(rows.in_half))
    return along_second(rows)
