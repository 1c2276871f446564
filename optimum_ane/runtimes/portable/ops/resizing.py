"""Resizing of the last axes by interpolation. It runs in float32; an fp16 result is rounded once, at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


def grid(mode: str, extent: Tensor, count: int) -> Tensor:
    """Returns the places at which an interval is sampled, as the notes of MIL's `resize_bilinear` define them.

    Args:
        mode: MIL's `sampling_mode`.
        extent: How many elements the interval spans; of any shape, floating-point.
        count: How many samples to take.

    Returns:
        Places from 0 to extent − 1, in the shape of `extent` followed by `count`.
    """
    step = torch.arange(count, dtype=extent.dtype)
    extent = extent[..., None]
    last = extent - 1
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        places = step * (last / max(count - 1, 1))
        if count == 1 and mode == "ALIGN_CORNERS":
            places = places + last / 2
    elif mode == "DEFAULT":
        places = step * (extent / count)
    elif mode == "OFFSET_CORNERS":
        places = (step + 0.5) * (last.clamp(min=1) / count)
    elif mode == "UNALIGN_CORNERS":
        places = (step + 0.5) * (extent / count) - 0.5
    else:
        raise ValueError(f"unknown sampling mode {mode!r}")
    # A box of `crop_resize` may run backwards, which makes the last place negative.
    return places.clamp(last.clamp(max=0), last.clamp(min=0))


def blended(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """Interpolates from `low` to `high`; a weight of 0 keeps an infinity or NaN in `high` out of the result."""
    return torch.where(weight == 0, low, low * (1 - weight) + high * weight)


def _linear(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """Samples an axis at fractional places (rank 1) within it."""
    low = places.floor()
    weight = (places - low).float().view(-1, *[1] * (-axis - 1))
    below = low.long()
    above = (below + 1).clamp(max=x.shape[axis] - 1)
    return blended(x.index_select(axis, below), x.index_select(axis, above), weight)


def _resized(x: Tensor, sizes: Sequence[int], mode: str, *, nearest: bool = False) -> Tensor:
    """Resizes the last axes to these sizes."""
    for axis, size in enumerate(sizes, -len(sizes)):
        if size == x.shape[axis] and mode != "OFFSET_CORNERS":
            continue  # every other grid is that of the elements themselves
        places = grid(mode, torch.tensor(x.shape[axis], dtype=torch.float64), size)
        if nearest:
            # Core ML takes the upper of two neighbours that are equally near.
            x = x.index_select(axis, (places + 0.5).floor().long().clamp(max=x.shape[axis] - 1))
        else:
            x = _linear(x, axis, places)
    return x


@op("resize")
def resize(
    x: Tensor,
    shape: Sequence[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resizes the last `resized_dims` axes.

    Args:
        x: Of any rank.
        shape: Its last `resized_dims` entries are the new extents; 0 keeps that of x.
        resized_dims: How many axes.
        interpolation_mode: `LINEAR` or `NEAREST_NEIGHBOR`.
        sampling_mode: As in `grid`.
    """
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise ValueError(f"unknown interpolation mode {interpolation_mode!r}")
    if not resized_dims:
        return x
    kept = x.shape[x.ndim - resized_dims :]
    sizes = [size or extent for size, extent in zip(shape[len(shape) - resized_dims :], kept, strict=True)]
    return _resized(x, sizes, sampling_mode, nearest=interpolation_mode == "NEAREST_NEIGHBOR")


@op("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Resizes the last two axes by interpolation."""
    return _resized(x, (target_size_height, target_size_width), sampling_mode)


@op("resize_nearest_neighbor", exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Resizes the last two axes: each new element takes the old one in whose share it begins."""
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        # In integers, so that a place that falls on an element is not missed by a rounding error.
        index = torch.arange(size) * x.shape[axis] // size
        x = x.index_select(axis, index)
    return x


def _scaled(extent: int, scale: float) -> int:
    """Returns the extent after scaling, as coremltools infers it: the product is one of float32."""
    return int(np.floor(np.float32(scale) * np.float32(extent)))


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Scales the last two axes by interpolation; the grid follows from the extents, not from the factors.

    Args:
        x: Of rank 3 or more.
        scale_factor_height: The new extent of axis −2 over the old one, rounded down.
        scale_factor_width: The same of axis −1.
        align_corners: Whether the corners' centres fall on each other.
        half_pixel_centers: Whether an element's centre lies half an element from its edge; `not align_corners` where
            it is not given.
    """
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    return _resized(x, (_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)), mode)


@op("upsample_nearest_neighbor", exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Scales the last two axes: each new element takes the old one in whose share it begins.

    As in `upsample_bilinear`, the grid follows from the extents and not from the factors: coremltools' test
    `TestUpsampleNearestNeighborFractionalScales`, which Core ML passes, scales 3 elements by 1.12 to the same 3. It is
    torch's `interpolate` with `recompute_scale_factor=True`.
    """
    return resize_nearest_neighbor(
        x, _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    )


@op("crop", exact=True)
def crop(x: Tensor, crop_height: Sequence[int], crop_width: Sequence[int]) -> Tensor:
    """Cuts rows off the top and the bottom, and columns off the left and the right."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
