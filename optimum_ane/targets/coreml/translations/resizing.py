"""Bicubic and anti-aliased resizing of images, as one constant matrix for each side.

    x (N, C, H, W) ─► matmul(rows (H', H), x) ─► matmul(·, columns (W, W')) ─► (N, C, H', W')

Both are linear and separable, so that PyTorch's own answer for the identity is the matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation

from optimum_ane.targets.coreml.translations.arguments import arguments, constant, integers
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces

_BICUBIC = ("upsample_bicubic2d", "upsample_bicubic2d.vec", "_upsample_bicubic2d_aa", "_upsample_bicubic2d_aa.vec")


@adds(*_BICUBIC)
def resize(context: Any, node: Any) -> None:
    """Resizes (N, C, H, W) to a size, or by factors."""
    kind = node.kind.removesuffix(".vec")
    is_by_factors = node.kind.endswith(".vec") or len(node.inputs) == 4  # what a trace has of the overload
    if is_by_factors:
        x, size, corners, factors = arguments(context, node, "input", "output_size", "align_corners", "scale_factors")
        scales: list[float | None] = [None, None] if factors is None else _numbers(factors)
    else:
        x, size, corners, *factors = arguments(
            context, node, "self", "output_size", "align_corners", "scales_h", "scales_w"
        )
        scales = [None if factor is None else float(constant(factor, "a factor")) for factor in factors]
    height, width = x.shape[-2:]
    if size is None:
        target = [int(side * (scale or 1)) for side, scale in zip((height, width), scales, strict=True)]
    else:
        target = integers(size, "the size of a resized image")
    align = bool(constant(corners, "whether corners are aligned"))
    operation = getattr(torch.ops.aten, kind).default
    rows, columns = (
        _matrix(operation, side, new, align, scale)
        for side, new, scale in zip((height, width), target, scales, strict=True)
    )
    tall = mb.matmul(x=rows, y=x)
    context.add(mb.matmul(x=tall, y=columns.T.copy(), name=node.name))


@replaces("_upsample_bilinear2d_aa", "_upsample_bilinear2d_aa.vec")
def resize_smoothly(context: Any, node: Any, otherwise: Translation) -> None:
    """Bilinear with anti-aliasing, which coremltools takes for one without."""
    resize(context, node)


def _numbers(factors: Any) -> list[float | None]:
    known = constant(factors, "the factors of a resized image")
    return [
        float(np.asarray(number).item()) for number in (known if isinstance(known, list) else np.reshape(known, -1))
    ]


def _matrix(operation: Any, side: int, new: int, align: bool, scale: float | None) -> np.ndarray[Any, Any]:
    """(new, side): what becomes of a column of pixels. Its other side keeps its size, and so its numbers."""
    image = torch.eye(side).reshape(1, 1, side, side)
    return np.ascontiguousarray(operation(image, [new, side], align, scale, None)[0, 0].numpy())
