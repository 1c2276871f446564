"""Sampling of images at computed places. It runs in float32; an fp16 result is rounded once, at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.ops.resizing import blended, grid
from optimum_ane.runtimes.portable.registry import op

_CORNERS = {
    "CORNERS_HEIGHT_FIRST": (0, 1, 2, 3),
    "CORNERS_WIDTH_FIRST": (1, 0, 3, 2),
    "CENTER_SIZE_HEIGHT_FIRST": (0, 1, 2, 3),
    "CENTER_SIZE_WIDTH_FIRST": (1, 0, 3, 2),
}


@op("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Resizes parts of images by interpolation.

    Args:
        x: (images, channels, height, width).
        roi: (boxes, 1, 4, 1, 1), each box for all images, or (boxes, 1, 5, 1, 1), beginning with the image's index.
            Until iOS 16.
        boxes: (boxes, 4). From iOS 17 on.
        box_indices: (boxes,), the image of each box; 0, 1, … where there is none. From iOS 17 on.
        target_height: The extent of each result.
        target_width: The extent of each result.
        normalized_coordinates: Whether a box is given in shares of height − 1 and width − 1.
        spatial_scale: A factor of all coordinates.
        box_coordinate_mode: The order and meaning of a box's four numbers.
        sampling_mode: As in `resize_bilinear`, within the box.
        pad_value: The result where a place lies outside the image.

    Returns:
        (boxes, channels, target_height, target_width); for `roi` (boxes, images or 1, channels, …).
    """
    if box_coordinate_mode not in _CORNERS:
        raise ValueError(f"unknown box coordinate mode {box_coordinate_mode!r}")
    images = x.shape[0]
    if boxes is not None:
        corners = boxes
        owners = torch.arange(len(boxes)) if box_indices is None else box_indices.long()
    elif roi is not None:
        flat = roi.flatten(1)
        if flat.shape[1] == 5:
            owners, corners = flat[:, 0].long(), flat[:, 1:]
        else:
            owners, corners = torch.arange(images).repeat(len(flat)), flat.repeat_interleave(images, 0)
    else:
        raise ValueError("neither roi nor boxes are given")
    if owners.numel() and (owners.min() < 0 or owners.max() >= images):
        raise IndexError(f"a box names an image outside the batch of {images}")
    height, width = x.shape[-2:]
    top, left, bottom, right = (corners.float()[:, i] * spatial_scale for i in _CORNERS[box_coordinate_mode])
    if normalized_coordinates:
        top, bottom, left, right = top * (height - 1), bottom * (height - 1), left * (width - 1), right * (width - 1)
    if box_coordinate_mode.startswith("CENTER_SIZE"):
        top, bottom, left, right = top - bottom / 2, top + bottom / 2, left - right / 2, left + right / 2
    rows = top[:, None] + grid(sampling_mode, bottom - top + 1, target_height)
    columns = left[:, None] + grid(sampling_mode, right - left + 1, target_width)
    inside = ((rows >= 0) & (rows <= height - 1))[:, :, None] & ((columns >= 0) & (columns <= width - 1))[:, None, :]
    places = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
    values = _bilinear(x.index_select(0, owners), places, None)
    result = torch.where(inside[:, None], values, pad_value)
    if roi is None:
        return result
    return result.view(len(roi), -1, *result.shape[1:])


@op("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Samples images at places of their own.

    Args:
        x: (batch, channels, height, width).
        coordinates: (batch, new height, new width, 2), x before y; integers or floats.
        sampling_mode: `bilinear` or `nearest` (halves go to the even neighbour).
        padding_mode: What lies outside an image: `constant`, `border`, `reflection` (the edge is not repeated) or
            `symmetric` (it is).
        padding_value: The constant.
        coordinates_mode: `unnormalized`, `normalized_minus_one_to_one` or `normalized_zero_to_one`.
        align_corners: Whether normalised coordinates end at the centres of the corner elements or at their edges.
    """
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    places = coordinates.float()
    mode = coordinates_mode.lower()
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode not in ("normalized_zero_to_one", "unnormalized"):
        raise ValueError(f"unknown coordinates mode {coordinates_mode!r}")
    if mode != "unnormalized":
        places = places * (sizes - 1) if align_corners else places * sizes - 0.5
    padding = padding_mode.lower()
    if padding == "reflection":
        places = _folded(places, torch.zeros(2), sizes - 1)
    elif padding == "symmetric":
        places = _folded(places, torch.full((2,), -0.5), sizes)
    elif padding not in ("constant", "border"):
        raise ValueError(f"unknown padding mode {padding_mode!r}")
    if padding != "constant":
        places = torch.minimum(places.clamp(min=0), sizes - 1)
    outside = padding_value if padding == "constant" else None
    if sampling_mode.lower() == "nearest":
        column, row = places.round().unbind(-1)
        return _element(x, column, row, outside)
    if sampling_mode.lower() != "bilinear":
        raise ValueError(f"unknown sampling mode {sampling_mode!r}")
    return _bilinear(x, places, outside)


@op("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Samples images at the places to which an affine map takes the elements of the result.

    Args:
        x: (batch, channels, height, width).
        transform_matrix: (batch or 1, 6): x' = a0 · x + a1 · y + a2, and y' likewise with the last three.
        output_height: The extent of the result.
        output_width: The extent of the result.
        sampling_mode: As in `resample`, like all that follow. coremltools lets only one value of each pass, that of
            torch's `affine_grid` and `grid_sample` with aligned corners.
        padding_mode: See there.
        padding_value: See there.
        coordinates_mode: See there.
        align_corners: See there.
    """
    if coordinates_mode.lower() != "normalized_minus_one_to_one" or not align_corners:
        raise ValueError(f"coordinates mode {coordinates_mode!r} with align_corners={align_corners} is not defined")
    columns, rows = (_from_minus_one_to_one(count) for count in (output_width, output_height))
    plane = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None], torch.ones(())), -1)
    places = torch.einsum("hwk,bck->bhwc", plane, transform_matrix.float().view(-1, 2, 3))
    places = places.expand(x.shape[0], -1, -1, -1)
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _from_minus_one_to_one(count: int) -> Tensor:
    """Returns evenly spaced numbers; the middle where there is one only, as torch has it."""
    return torch.zeros(1) if count == 1 else torch.linspace(-1, 1, count)


def _folded(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Reflects places at `start` and `start + length` until they lie between."""
    period = (2 * length).clamp(min=1e-30)  # an axis of one element, reflected without its edge, has length 0
    distance = torch.remainder((places - start).abs(), period)
    return start + torch.where(length == 0, torch.zeros(()), torch.minimum(distance, period - distance))


def _element(x: Tensor, column: Tensor, row: Tensor, outside: float | None) -> Tensor:
    """Takes the elements at whole places, (batch, h, w) each; a constant where they lie outside, if there is one."""
    height, width = x.shape[-2:]
    # A place that is not a number becomes some integer, which the bounds bring back into the image.
    index = row.long().clamp(0, height - 1) * width + column.long().clamp(0, width - 1)
    taken = x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    taken = taken.view(*x.shape[:2], *index.shape[1:])
    if outside is None:
        return taken
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    return torch.where(inside[:, None], taken, outside)


def _bilinear(x: Tensor, places: Tensor, outside: float | None) -> Tensor:
    """Interpolates between the four elements around each place, (batch, h, w, 2) with x before y."""
    column, row = places.unbind(-1)
    left, top = column.floor(), row.floor()
    across, down = (column - left)[:, None], (row - top)[:, None]
    upper = blended(_element(x, left, top, outside), _element(x, left + 1, top, outside), across)
    lower = blended(_element(x, left, top + 1, outside), _element(x, left + 1, top + 1, outside), across)
    return blended(upper, lower, down)
