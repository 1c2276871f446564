"""Resizing and cropping of images, against torch, the formulas of MIL's documentation, and numbers that
coremltools' own tests compare Core ML with.
"""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_grids import MODES, grid_resized, interpolated, place
from portable_programs import close

F = torch.nn.functional


def _t(array):
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 3), (5, 4), (10, 9), (1, 13)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bilinear(run, rng, mode, size, dtype):
    x = rng.standard_normal((2, 3, 5, 4)).astype(dtype)
    expected = grid_resized(x, mode, *size)

    def build(a):
        return (
            Builder.resize_bilinear(x=a, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode),
            Builder.resize(x=a, shape=[9, *size], resized_dims=np.uint32(2), sampling_mode=mode),
        )

    for result in run(build, x):
        assert result.dtype == dtype
        close(result, expected, 2e-3 if dtype is np.float16 else 1e-5)


@pytest.mark.parametrize(
    ("mode", "count", "places"),
    [
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("UNALIGN_CORNERS", 6, [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("DEFAULT", 6, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    ],
)
def test_grids_are_those_of_core_ml(run, mode, count, places):
    x = np.array([[[0, 1]]], np.float32)

    def build(a):
        return Builder.resize_bilinear(x=a, target_size_height=1, target_size_width=count, sampling_mode=mode)

    close(run(build, x)[0], np.array([[places]], np.float32), 1e-6)


def test_bilinear_keeps_infinity_to_itsplace(run):
    x = np.array([[[1, -np.inf, 3, 4]]], np.float32)

    def build(a):
        return Builder.resize_bilinear(
            x=a, target_size_height=1, target_size_width=7, sampling_mode="STRICT_ALIGN_CORNERS"
        )

    assert run(build, x)[0].tolist() == [[[1, -np.inf, -np.inf, -np.inf, 3, 3.5, 4]]]


@pytest.mark.parametrize("scales", [(2, 3), (1.5, 2.0), (2.6, 0.7), (0.5, 1.0)])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_upsample_bilinear_is_that_of_torch(run, rng, scales, align, rank):
    x = rng.standard_normal((2, 3, 2, 6, 5)[-rank:]).astype(np.float32)
    height, width = (int(np.floor(n * s + 1e-6)) for n, s in zip(x.shape[-2:], scales, strict=True))
    flat = _t(x).reshape(1, -1, *x.shape[-2:])
    expected = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=align)

    def build(a):
        factors = {"scale_factor_height": scales[0], "scale_factor_width": scales[1]}
        return Builder.upsample_bilinear(x=a, align_corners=align, **factors)

    for target in (ct.target.iOS15, ct.target.iOS17):
        close(run(build, x, target=target)[0], expected.view(*x.shape[:-2], height, width), 1e-5)


def test_upsample_bilinear_without_half_pixels(run, rng):
    x = rng.standard_normal((1, 2, 3, 4)).astype(np.float32)

    def build(a):
        return Builder.upsample_bilinear(
            x=a, scale_factor_height=2, scale_factor_width=3, align_corners=False, half_pixel_centers=False
        )

    close(run(build, x, target=ct.target.iOS16)[0], grid_resized(x, "DEFAULT", 6, 12), 1e-5)


@pytest.mark.parametrize("size", [(3, 5), (7, 4), (6, 10), (1, 1), (20, 33)])
def test_nearest_is_that_of_torch(run, rng, size):
    x = rng.standard_normal((2, 3, 6, 5)).astype(np.float32)
    expected = F.interpolate(_t(x), size=size, mode="nearest")

    def build(a):
        scales = {"scale_factor_height": size[0] / 6 + 1e-6, "scale_factor_width": size[1] / 5 + 1e-6}
        return (
            Builder.resize_nearest_neighbor(x=a, target_size_height=size[0], target_size_width=size[1]),
            Builder.upsample_nearest_neighbor(x=a, **scales),
        )

    for result in run(build, x):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("scale", [1.1, 1.3, 0.7, 2.5, 3.17])
def test_nearest_with_a_fractional_factor(run, rng, scale):
    x = rng.standard_normal((1, 1, 1, 30)).astype(np.float32)
    # The factor is written as float32: 30 × 1.1 is 33 or a little less.
    expected = F.interpolate(_t(x[:, :, 0]), scale_factor=scale + 1e-7, mode="nearest", recompute_scale_factor=True)

    def build(a):
        return Builder.upsample_nearest_neighbor(x=a, scale_factor_width=scale)

    np.testing.assert_array_equal(run(build, x)[0][:, :, 0], expected)


def test_nearest_as_core_ml(run):
    """Rows and numbers of coremltools' `TestUpsampleNearestNeighborFractionalScales`, which run against Core ML."""
    x = np.array([1.5, -2.5, 3.5], np.float32).reshape(1, 1, 1, 3)

    def build(a):
        return (
            Builder.upsample_nearest_neighbor(x=a, scale_factor_height=1.0, scale_factor_width=1.0),
            Builder.upsample_nearest_neighbor(x=a, scale_factor_height=3.17, scale_factor_width=0.67),
            Builder.upsample_nearest_neighbor(x=a, scale_factor_height=2.0, scale_factor_width=1.12),
        )

    same, smaller, larger = run(build, x, target=ct.target.iOS15)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(smaller[0, 0], [[1.5, -2.5]] * 3)
    np.testing.assert_array_equal(larger[0, 0], [[1.5, -2.5, 3.5]] * 2)


def test_resize_to_the_nearest(run):
    x = np.array([[[[-6, 9]]]], np.float32).reshape(1, 1, 1, 2, 1)  # Core ML's own numbers for DEFAULT

    def build(a):
        return Builder.resize(
            x=a, shape=[1, 1, 3, 2], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"
        )

    assert run(build, x)[0].flatten().tolist() == [-6, -6, 9, 9, 9, 9]
    row = np.array([[[1, 2, 3, 4]]], np.float32)

    def build(a):
        options = {"shape": [1, 7], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}
        return (
            Builder.resize(x=a, sampling_mode="UNALIGN_CORNERS", **options),
            Builder.resize(x=a, sampling_mode="STRICT_ALIGN_CORNERS", **options),
        )

    unaligned, strict = run(build, row)
    np.testing.assert_array_equal(unaligned, F.interpolate(_t(row), size=7, mode="nearest-exact"))
    assert strict.tolist() == [[[1, 2, 2, 3, 3, 4, 4]]]  # halves go up


def test_resize_to_a_computed_shape(run, rng):
    x, shape = rng.standard_normal((2, 1, 4)).astype(np.float32), np.array([9, 0, 7], np.int32)

    def build(a, s):
        return Builder.resize(x=a, shape=s, resized_dims=np.uint32(3)), Builder.resize(
            x=a, shape=s, resized_dims=np.uint32(1)
        )

    whole, last = run(build, x, shape)
    rows = interpolated(x, 0, [place("DEFAULT", i, 2, 9) for i in range(9)])
    close(whole, interpolated(rows, 2, [place("DEFAULT", i, 4, 7) for i in range(7)]), 1e-5)
    close(last, interpolated(x, 2, [place("DEFAULT", i, 4, 7) for i in range(7)]), 1e-5)


def test_resize_of_integers(run):
    x = np.array([[3, 7]], np.int32)

    def build(a):
        return Builder.resize(x=a, shape=[3], resized_dims=np.uint32(1), interpolation_mode="NEAREST_NEIGHBOR")

    result = run(build, x)[0]
    assert result.dtype == np.int32
    assert result.tolist() == [[3, 7, 7]]


def test_crop(run, rng):
    x = rng.standard_normal((2, 3, 6, 5)).astype(np.float16)
    result = run(lambda a: Builder.crop(x=a, crop_height=[1, 2], crop_width=[0, 3]), x)[0]
    np.testing.assert_array_equal(result, x[:, :, 1:4, :2])
