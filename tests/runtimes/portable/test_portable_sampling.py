"""Sampling of images at boxes and places, against torch, the formulas of MIL's documentation, and numbers that
coremltools' own tests compare Core ML with.
"""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_grids import MODES, grid_resized
from portable_programs import close

from optimum_ane.errors import ExecutionError

F = torch.nn.functional


def _t(array):
    return torch.from_numpy(np.asarray(array))


IMAGE = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("roi", "size", "normalized", "expected"),
    [
        ([1, 1, 2, 2], 2, False, [6, 7, 10, 11]),
        ([1, 1, 2, 2], 1, False, [8.5]),
        ([0, 0, 0, 1 / 3, 1 / 3], 2, True, [1, 2, 5, 6]),
        ([2, 2, 1, 1], 2, False, [11, 10, 7, 6]),
        ([1, 1, 2, 2], 4, False, [6, 19 / 3, 20 / 3, 7, 22 / 3, 23 / 3, 8, 25 / 3, 26 / 3, 9, 28 / 3, 29 / 3, 10,
                                  31 / 3, 32 / 3, 11]),
    ],
)  # fmt: skip
def test_crop_resize_as_core_ml(run, roi, size, normalized, expected):
    box = np.array(roi, np.float32).reshape(1, 1, -1, 1, 1)

    def build(a):
        return Builder.crop_resize(
            x=a,
            roi=box,
            target_height=size,
            target_width=size,
            normalized_coordinates=normalized,
            sampling_mode="ALIGN_CORNERS",
        )

    for target in (ct.target.iOS15, ct.target.iOS16):
        result = run(build, IMAGE, target=target)[0]
        close(result, np.array(expected).reshape(1, 1, 1, size, size), 1e-5)


def test_crop_resize_beyond_the_image_as_core_ml(run):
    boxes = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], np.float32)
    expected = np.array([3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3]).reshape(3, 1, 2, 2)
    options = {"target_height": 2, "target_width": 2, "normalized_coordinates": True, "pad_value": np.float32(10)}
    options["sampling_mode"] = "ALIGN_CORNERS"

    def old(a):
        roi = np.concatenate([np.zeros((3, 1)), boxes], 1).astype(np.float32).reshape(3, 1, 5, 1, 1)
        return Builder.crop_resize(x=a, roi=roi, **options)

    def new(a):
        return Builder.crop_resize(x=a, boxes=boxes, box_indices=np.zeros(3, np.int32), **options)

    close(run(old, IMAGE, target=ct.target.iOS16)[0], expected[:, None], 1e-4)
    close(run(new, IMAGE)[0], expected, 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_crop_resize_samples_the_box_as_a_resize_of_it(run, rng, mode):
    """A box that ends on elements is an image of its own."""
    x = rng.standard_normal((3, 2, 8, 9)).astype(np.float32)
    corners = [(1, 2, 5, 7), (0, 0, 7, 8), (3, 3, 3, 3)]
    swapped = [(b, a, d, c) for a, b, c, d in corners]
    middles = [((a + c) / 2, (b + d) / 2, c - a, d - b) for a, b, c, d in corners]
    owners = np.array([2, 0, 1], np.int32)
    options = {"target_height": 3, "target_width": 4, "sampling_mode": mode, "box_indices": owners}

    def build(a):
        return (
            Builder.crop_resize(x=a, boxes=np.float32(corners), **options),
            Builder.crop_resize(x=a, boxes=np.float32(swapped), box_coordinate_mode="CORNERS_WIDTH_FIRST", **options),
            Builder.crop_resize(
                x=a, boxes=np.float32(middles), box_coordinate_mode="CENTER_SIZE_HEIGHT_FIRST", **options
            ),
            Builder.crop_resize(x=a, boxes=np.float32(corners) * 4, spatial_scale=np.float32(0.25), **options),
        )

    expected = np.stack(
        [
            grid_resized(x[owner, :, top : bottom + 1, left : right + 1], mode, 3, 4)
            for owner, (top, left, bottom, right) in zip(owners, corners, strict=True)
        ]
    )
    for result in run(build, x):
        close(result, expected, 1e-5)


def test_crop_resize_of_a_box_under_one_element(run):
    """OFFSET_CORNERS has steps of max(1, extent − 1) / count: 1.25, and 1.75, which the box bounds to 1.5."""
    boxes = np.array([[1, 1, 1.5, 1.5]], np.float32)

    def build(a):
        return Builder.crop_resize(x=a, boxes=boxes, target_height=2, target_width=2, sampling_mode="OFFSET_CORNERS")

    close(run(build, IMAGE)[0], np.array([[[[7.25, 7.5], [8.25, 8.5]]]]), 1e-6)


def test_crop_resize_of_every_image(run, rng):
    x = rng.standard_normal((2, 3, 6, 5)).astype(np.float32)
    boxes = np.float32([[1, 1, 3, 4], [0, 2, 5, 4], [2, 0, 4, 2]])

    def build(a):
        roi = boxes.reshape(3, 1, 4, 1, 1)
        return Builder.crop_resize(x=a, roi=roi, target_height=3, target_width=2, sampling_mode="STRICT_ALIGN_CORNERS")

    result = run(build, x, target=ct.target.iOS15)[0]
    assert result.shape == (3, 2, 3, 3, 2)
    for i, (top, left, bottom, right) in enumerate(boxes.astype(int)):
        part = x[:, :, top : bottom + 1, left : right + 1]
        close(result[i], grid_resized(part, "STRICT_ALIGN_CORNERS", 3, 2), 1e-5)


def test_crop_resize_of_an_image_that_is_not_there(run):
    box = np.array([[0, 0, 1, 1]], np.float32)
    owner = np.array([1], np.int32)

    def build(a, i):
        return Builder.crop_resize(x=a, boxes=box, box_indices=i)

    with pytest.raises(ExecutionError, match="outside the batch of 1"):
        run(build, IMAGE, owner)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 4)])
def test_resample_is_grid_sample(run, rng, mode, padding, align, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    places = rng.uniform(-3, 3, (shape[0], 4, 6, 2)).astype(np.float32)
    # torch reflects at the centres of the last elements or at their edges as the corners are aligned.
    reflection = "reflection" if align else "symmetric"
    own = {"zeros": "constant", "border": "border", "reflection": reflection}[padding]
    expected = F.grid_sample(_t(x), _t(places), mode, padding, align)

    def build(a, c):
        options = {"sampling_mode": mode, "padding_mode": own, "padding_value": np.float32(0)}
        options["align_corners"] = align
        half = Builder.mul(x=Builder.add(x=c, y=np.float32(1)), y=np.float32(0.5))
        return (
            Builder.resample(x=a, coordinates=c, coordinates_mode="normalized_minus_one_to_one", **options),
            Builder.resample(x=a, coordinates=half, coordinates_mode="normalized_zero_to_one", **options),
        )

    for result in run(build, x, places):
        close(result, expected, 3e-5)


def test_resample_as_core_ml(run):
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    places = np.array([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)

    def build(a, c):
        cases = [
            ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True),
            ("nearest", "border", -1, "unnormalized", False),
            ("bilinear", "reflection", -1, "normalized_zero_to_one", True),
            ("nearest", "symmetric", -1, "normalized_zero_to_one", False),
        ]
        return tuple(
            Builder.resample(
                x=a,
                coordinates=c,
                sampling_mode=sampling,
                padding_mode=padding,
                padding_value=np.float32(value),
                coordinates_mode=mode,
                align_corners=align,
            )
            for sampling, padding, value, mode, align in cases
        )

    expected = [[8.585, 6.17, 27.5, 6.17], [11, 11, 11, 44], [22, 36.3, 11, 34.1], [22, 33, 11, 33]]
    for result, numbers in zip(run(build, x, places), expected, strict=True):
        close(result, np.array(numbers).reshape(1, 1, 2, 2), 1e-5)


def test_resample_at_integers_and_at_noplace(run):
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    whole = np.array([0, 0, 1, 1, 5, 0, 0, -1], np.int32).reshape(1, 2, 2, 2)
    none = np.array([np.nan, 0, 1, np.inf], np.float32).reshape(1, 1, 2, 2)

    def build(a, c, n):
        options = {"padding_mode": "constant", "padding_value": np.float32(-1), "coordinates_mode": "unnormalized"}
        options["align_corners"] = True
        return (
            Builder.resample(x=a, coordinates=c, sampling_mode="bilinear", **options),
            Builder.resample(x=a, coordinates=n, sampling_mode="nearest", **options),
        )

    taken, outside = run(build, x, whole, none)
    assert taken.flatten().tolist() == [11, 44, -1, -1]
    assert outside.flatten().tolist() == [-1, -1]


AFFINE = {
    "sampling_mode": "bilinear",
    "padding_mode": "constant",
    "padding_value": np.float32(0),
    "coordinates_mode": "normalized_minus_one_to_one",
    "align_corners": True,
}


def test_affine_as_core_ml(run):
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    matrix = np.array([[-1, -2, -3.7, -1, 3.5, 1.2]], np.float32)
    result = run(
        lambda a, m: Builder.affine(x=a, transform_matrix=m, output_height=3, output_width=3, **AFFINE), x, matrix
    )
    close(result[0], np.array([10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0]).reshape(1, 1, 3, 3), 1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(6, 5), (1, 3)])
def test_affine_is_that_of_torch(run, rng, batch, size):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    matrix = rng.uniform(-1, 1, (batch, 6)).astype(np.float32)
    theta = _t(matrix).view(batch, 2, 3).expand(2, -1, -1)
    expected = F.grid_sample(_t(x), F.affine_grid(theta, [2, 3, *size], align_corners=True), align_corners=True)

    def build(a, m):
        return Builder.affine(x=a, transform_matrix=m, output_height=size[0], output_width=size[1], **AFFINE)

    close(run(build, x, matrix)[0], expected, 2e-5)
