"""How much the operations on images are about to make and to do; see `sizes`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimum_ane.runtimes.portable.limits import check_extents
from optimum_ane.runtimes.portable.sizes import (
    Cost,
    Operands,
    Shape,
    integer,
    integers,
    number,
    one,
    positive,
    sized,
)


def _spatial(operands: Operands, x: Shape, name: str) -> list[int]:
    """Returns a parameter of one positive integer for each spatial axis; ones where it is left out."""
    axes = len(x) - 2
    numbers = integers(operands, name, [1] * axes)
    positive(numbers, name)
    if axes < 1 or len(numbers) != axes:
        raise ValueError(f"{name} {numbers} for shape {x}")
    return numbers


def _padded(operands: Operands, x: Shape, extents: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Returns the spatial extents with the padding that a convolution or pooling adds."""
    if operands.python("pad_type", "valid") == "custom":
        pad = integers(operands, "pad", [0] * (2 * (len(x) - 2)))
        if len(pad) != 2 * (len(x) - 2) or min(pad, default=0) < 0:
            raise ValueError(f"padding {pad} for shape {x}")
        return [n + a + b for n, a, b in zip(x[2:], pad[::2], pad[1::2], strict=True)]
    if operands.python("pad_type", "valid") == "valid":
        return list(x[2:])
    return [max(n, (-(-n // s) - 1) * s + e) for n, e, s in zip(x[2:], extents, strides, strict=True)]


@sized("conv")
def _conv(operands: Operands) -> Cost:
    x, weight = one(operands, "x"), one(operands, "weight")
    strides, dilations = _spatial(operands, x, "strides"), _spatial(operands, x, "dilations")
    if len(weight) != len(x):
        raise ValueError(f"a weight of shape {weight} for shape {x}")
    extents = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(weight[2:], dilations, strict=True)]
    padded = _padded(operands, x, extents, strides)
    made = check_extents((*x[:2], *padded), "the padded input")
    if any(not 0 < extent <= size for extent, size in zip(extents, padded, strict=True)):
        # torch computes the extent in 64 bits; one that overflows passes its checks and reads outside.
        raise ValueError(f"a kernel that spans {extents} over {padded}")
    spatial = [(n - e) // s + 1 for n, e, s in zip(padded, extents, strides, strict=True)]
    result = check_extents((x[0], weight[0], *spatial), "a result")
    return max(made, result), result * math.prod(weight[1:])


@sized("conv_transpose")
def _conv_transpose(operands: Operands) -> Cost:
    x, weight = one(operands, "x"), one(operands, "weight")
    strides, dilations = _spatial(operands, x, "strides"), _spatial(operands, x, "dilations")
    groups = integer(operands, "groups", 1)
    positive([groups], "groups")
    if len(weight) != len(x):
        raise ValueError(f"a weight of shape {weight} for shape {x}")
    pad = integers(operands, "pad", [0])
    whole = [
        max(0, n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x[2:], strides, weight[2:], dilations, strict=True)
    ]
    channels = weight[1] * groups
    result = check_extents((x[0], channels, *whole), "a result")
    # Padding is cut off; amounts as large as this have no meaning, and torch would compute with them.
    check_extents((sum(abs(amount) for amount in pad),), "a padding")
    target = operands.python("output_shape")
    if isinstance(target, list):
        spatial = [int(n) for n in target[2:]]
        result = max(result, check_extents((x[0], channels, *spatial), "a result"))
        check_extents((x[0], channels, *(max(a, b) for a, b in zip(whole, spatial, strict=True))), "a result")
    return result, math.prod(x) * math.prod(weight[1:])


@sized("avg_pool", "max_pool", "l2_pool")
def _pool(operands: Operands) -> Cost:
    x = one(operands, "x")
    strides, kernels = _spatial(operands, x, "strides"), _spatial(operands, x, "kernel_sizes")
    padded = _padded(operands, x, kernels, strides)
    if operands.python("ceil_mode", False):
        padded = [n + s for n, s in zip(padded, strides, strict=True)]
    made = check_extents((*x[:2], *padded), "the padded input")
    for extent in (*kernels, *strides):
        check_extents((extent,), "a window")
    windows = math.prod(max(0, (n - k) // s + 1) for n, k, s in zip(padded, kernels, strides, strict=True))
    return made, math.prod(x[:2]) * windows * math.prod(kernels)


@sized("local_response_norm")
def _local_response_norm(operands: Operands) -> Cost:
    x, size = one(operands, "x"), integer(operands, "size", 1)
    positive([size], "size")
    elements = math.prod(x) // max(1, x[1]) * (x[1] + 2 * size)
    return elements, math.prod(x) * size


def _resized(x: Shape, sizes: Sequence[int]) -> Cost:
    """The axes grow one after the other, so that an axis that shrinks may come after one that has grown."""
    if len(sizes) > len(x):
        raise ValueError(f"sizes {list(sizes)} for shape {x}")
    kept = len(x) - len(sizes)
    for size in sizes:
        check_extents((size,), "an axis")
    elements = check_extents((*x[:kept], *(max(a, b) for a, b in zip(x[kept:], sizes, strict=True))), "a result")
    return elements, 4 * elements


@sized("resize")
def _resize(operands: Operands) -> Cost:
    x, count = one(operands, "x"), integer(operands, "resized_dims", 0)
    if not 0 <= count <= len(x):
        raise ValueError(f"resized_dims {count} of shape {x}")
    shape = integers(operands, "shape")
    return _resized(x, shape[len(shape) - count :] if count else [])


@sized("resize_bilinear", "resize_nearest_neighbor")
def _resize_to(operands: Operands) -> Cost:
    sizes = [integer(operands, f"target_size_{side}", 1) for side in ("height", "width")]
    return _resized(one(operands, "x"), sizes)


@sized("upsample_bilinear", "upsample_nearest_neighbor")
def _upsample(operands: Operands) -> Cost:
    x = one(operands, "x")
    factors = [number(operands, f"scale_factor_{side}", 1) for side in ("height", "width")]
    if min(factors) <= 0 or len(x) < 2:
        raise ValueError(f"factors {factors} for shape {x}")
    return _resized(x, [int(extent * factor) + 1 for extent, factor in zip(x[-2:], factors, strict=True)])


@sized("crop_resize", "resample", "affine")
def _sampled(operands: Operands) -> Cost:
    """Samples of all channels, for each image, box or place."""
    x = one(operands, "x")
    if len(x) != 4:
        raise ValueError(f"an image of shape {x}")
    sides = [integer(operands, f"{kind}_{side}", 1) for kind in ("output", "target") for side in ("height", "width")]
    check_extents(sides, "a result")
    others = [shape for shape in operands.all() if shape is not x]
    places = max((math.prod(shape) for shape in others), default=1)
    elements = math.prod(x[:2]) * max(1, places) * math.prod(sides)
    boxes = operands.shapes("roi") + operands.shapes("boxes")
    for shape in boxes:
        # Every box may take a copy of the image.
        elements = max(elements, (shape[0] if shape else 1) * math.prod(x))
    return elements, 4 * elements


@sized("space_to_batch")
def _space_to_batch(operands: Operands) -> Cost:
    x, paddings = one(operands, "x"), operands.python("paddings")
    amounts = [n for pair in paddings for n in pair]
    if len(x) != 4 or len(amounts) != 4 or not all(isinstance(n, int) for n in amounts) or min(amounts) < 0:
        raise ValueError(f"padding {amounts} for shape {x}")
    top, bottom, left, right = amounts
    elements = check_extents((*x[:2], x[2] + top + bottom, x[3] + left + right), "a result")
    return elements, elements
