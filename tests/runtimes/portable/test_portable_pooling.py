"""Pooling and transposed convolution, against torch and against windows cut out one by one."""

from __future__ import annotations

import itertools
import math

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import close

F = torch.nn.functional
SPATIAL = {3: (11,), 4: (8, 11), 5: (5, 6, 7)}


def _t(array):
    return torch.from_numpy(np.asarray(array))


def _margins(pad_type, pad, size, kernel, stride):
    if pad_type == "custom":
        return pad
    if pad_type == "valid":
        return 0, 0
    total = max(0, stride * math.ceil(size / stride) - size + kernel - stride)
    return (total // 2, total - total // 2) if pad_type == "same" else (total - total // 2, total // 2)


def _windows(x, kernels, strides, pad_type, pad, fill):
    """Every window of x in float64, its elements last: (batch, channels, *out, elements), and what is input in it."""
    spatial = x.shape[2:]
    pairs = [
        _margins(pad_type, pad[2 * i : 2 * i + 2] if pad else None, s, k, t)
        for i, (s, k, t) in enumerate(zip(spatial, kernels, strides, strict=True))
    ]
    widths = [(0, 0), (0, 0), *pairs]
    padded = np.pad(x.astype(np.float64), widths, constant_values=fill)
    real = np.pad(np.ones(x.shape), widths)
    out = [(n - k) // t + 1 for n, k, t in zip(padded.shape[2:], kernels, strides, strict=True)]
    values, inside = (np.empty((*x.shape[:2], *out, math.prod(kernels))) for _ in range(2))
    for place in itertools.product(*map(range, out)):
        cut = (..., *(slice(i * t, i * t + k) for i, t, k in zip(place, strides, kernels, strict=True)))
        values[(slice(None), slice(None), *place)] = padded[cut].reshape(*x.shape[:2], -1)
        inside[(slice(None), slice(None), *place)] = real[cut].reshape(*x.shape[:2], -1)
    return values, inside


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pooling(run, rng, rank, pad_type, dtype):
    x = rng.standard_normal((2, 3, *SPATIAL[rank])).astype(dtype)
    axes = rank - 2
    kernels, strides = [3, 2, 4][:axes], [2, 1, 3][:axes]
    pad = [2, 0, 1, 1, 0, 3][: 2 * axes] if pad_type == "custom" else None
    options = {"kernel_sizes": kernels, "strides": strides, "pad_type": pad_type, **({"pad": pad} if pad else {})}

    def build(a):
        results = [
            Builder.max_pool(x=a, **options),
            Builder.avg_pool(x=a, **options),
            Builder.avg_pool(x=a, exclude_padding_from_average=True, **options),
        ]
        return (*results, Builder.l2_pool(x=a, **options)) if axes < 3 else tuple(results)

    largest, mean, inner_mean, *length = run(build, x)
    tolerance = 1e-3 if dtype is np.float16 else 1e-5
    values, _ = _windows(x, kernels, strides, pad_type, pad, -np.inf)
    np.testing.assert_array_equal(largest, values.max(-1))
    values, inside = _windows(x, kernels, strides, pad_type, pad, 0)
    close(mean, values.mean(-1), tolerance)
    close(inner_mean, values.sum(-1) / inside.sum(-1), tolerance)
    for root in length:
        close(root, np.sqrt((values**2).sum(-1)), tolerance * 3)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 1), (5, 4, 2), (2, 2, 1)]
)
@pytest.mark.parametrize("size", [7, 10])
def test_ceil_mode_is_that_of_torch(run, rng, axes, kernel, stride, pad, size):
    x = rng.standard_normal((1, 2, *[size, size + 1][:axes])).astype(np.float32)
    options = {
        "kernel_sizes": [kernel] * axes,
        "strides": [stride] * axes,
        "pad_type": "custom",
        "pad": [pad] * (2 * axes),
        "ceil_mode": True,
    }

    def build(a):
        return (
            Builder.max_pool(x=a, **options),
            Builder.avg_pool(x=a, **options),
            Builder.avg_pool(x=a, exclude_padding_from_average=True, **options),
            Builder.l2_pool(x=a, **options),
        )

    largest, mean, inner_mean, length = run(build, x)
    maximum, average = ((F.max_pool1d, F.avg_pool1d), (F.max_pool2d, F.avg_pool2d))[axes - 1]
    close(largest, maximum(_t(x), kernel, stride, pad, ceil_mode=True))
    close(mean, average(_t(x), kernel, stride, pad, True, True), 1e-5)
    close(inner_mean, average(_t(x), kernel, stride, pad, True, False), 1e-5)
    # The sum of squares is the mean with the zeros counted, times the elements of a window that lie in the padding.
    counted = average(torch.ones(1, 1, *x.shape[2:]), kernel, stride, pad, True, False)
    whole = average(_t(x).square(), kernel, stride, pad, True, False) / counted
    share = F.conv1d if axes == 1 else F.conv2d
    margin = [pad, pad + stride] * axes
    inside = share(F.pad(torch.ones(1, 1, *x.shape[2:]), margin), torch.ones(1, 1, *[kernel] * axes), stride=stride)
    inside = inside[(..., *(slice(n) for n in length.shape[2:]))]
    close(length, (whole * inside).sqrt(), 1e-5)


def test_pooling_keeps_what_is_no_number(run):
    x = np.array([[[1, -np.inf, -np.inf, 5, np.nan, 2, np.inf, 3]]], np.float32)

    def build(a):
        options = {"kernel_sizes": [2], "strides": [2], "pad_type": "valid"}
        return Builder.max_pool(x=a, **options), Builder.avg_pool(x=a, **options)

    largest, mean = run(build, x)
    np.testing.assert_array_equal(largest, [[[1, 5, np.nan, np.inf]]])
    np.testing.assert_array_equal(mean, [[[-np.inf, -np.inf, np.nan, np.inf]]])


def test_windows_of_padding_alone(run):
    x = np.ones((1, 1, 2), np.float32)
    options = {"kernel_sizes": [2], "strides": [2], "pad_type": "custom", "pad": [2, 2]}

    def build(a):
        return Builder.max_pool(x=a, **options), Builder.avg_pool(x=a, exclude_padding_from_average=True, **options)

    largest, mean = run(build, x)
    assert largest.tolist() == [[[-np.inf, 1, -np.inf]]]
    assert mean.tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_conv_transpose(run, rng, rank, groups, dtype):
    axes = rank - 2
    x = rng.standard_normal((2, 4, *[4, 3, 2][:axes])).astype(dtype)
    weight = (rng.standard_normal((4, 6 // groups, *[3, 2, 3][:axes])) / 4).astype(dtype)
    bias = rng.standard_normal(6).astype(dtype)
    strides, dilations = [2, 1, 3][:axes], [1, 2, 1][:axes]
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    arrays = [_t(a).double() for a in (x, weight, bias)]
    full = function(*arrays, strides, 0, 0, groups, dilations)

    def build(a):
        fixed = {"weight": weight, "bias": bias, "strides": strides, "dilations": dilations, "groups": groups}
        pad = [1, 0, 0, 1, 1, 1][: 2 * axes]
        return (
            Builder.conv_transpose(x=a, **fixed),
            Builder.conv_transpose(x=a, pad_type="custom", pad=pad, **fixed),
        )

    valid, custom = run(build, x)
    tolerance = 2e-3 if dtype is np.float16 else 1e-5
    close(valid, full, tolerance)
    cut = (..., *(slice(before, -after or None) for before, after in [(1, 0), (0, 1), (1, 1)][:axes]))
    close(custom, full[cut], tolerance)


def test_conv_transpose_same_and_output_shape(run, rng):
    x = rng.standard_normal((1, 2, 5)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 3, 4)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    full = F.conv_transpose1d(_t(x), _t(weight), _t(bias), stride=2)  # 12 long
    assert full.shape[-1] == 12

    def build(a):
        fixed = {"x": a, "weight": weight, "bias": bias, "strides": [2]}
        return (
            Builder.conv_transpose(pad_type="same", **fixed),
            Builder.conv_transpose(pad_type="same", output_shape=[1, 3, 9], **fixed),
            Builder.conv_transpose(pad_type="valid", output_shape=[1, 3, 11], **fixed),
            Builder.conv_transpose(pad_type="custom", pad=[1, 1], output_shape=[1, 3, 10], **fixed),
            Builder.conv_transpose(pad_type="valid", output_shape=[1, 3, 14], **fixed),
        )

    same, odd, valid, custom, larger = run(build, x)
    close(same, full[..., 1:11], 1e-5)
    close(odd, full[..., 1:10], 1e-5)
    close(valid, full[..., :11], 1e-5)
    close(custom, full[..., 1:11], 1e-5)
    close(larger[..., :12], full, 1e-5)
    close(larger[..., 12:], np.broadcast_to(bias[:, None], (1, 3, 2)))


def test_conv_transpose_same_beyond_the_kernel(run, rng):
    """A stride above the kernel leaves places that nothing reaches."""
    x, weight = rng.standard_normal((1, 1, 3)).astype(np.float32), np.ones((1, 1, 2), np.float32)
    result = run(lambda a: Builder.conv_transpose(x=a, weight=weight, strides=[4], pad_type="same"), x)[0]
    expected = np.zeros((1, 1, 12), np.float32)
    for place, value in enumerate(x[0, 0]):
        expected[0, 0, 4 * place : 4 * place + 2] = value
    np.testing.assert_array_equal(result, expected)


def test_conv_transpose_with_a_computed_weight(run, rng):
    x, weight = (
        rng.standard_normal((1, 2, 3, 4)).astype(np.float32),
        rng.standard_normal((2, 3, 2, 2)).astype(np.float32),
    )
    result = run(lambda a, w: Builder.conv_transpose(x=a, weight=w, strides=[2, 2]), x, weight)[0]
    close(result, F.conv_transpose2d(_t(x), _t(weight), stride=2), 1e-5)


@pytest.mark.parametrize("per_channel", [True, False])
def test_conv_quantized(run, rng, per_channel):
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    weight = rng.integers(0, 256, (3, 2, 2, 2)).astype(np.uint8)
    scale = np.array([0.01, 0.02, 0.03] if per_channel else [0.02], np.float32)
    shift = np.array([-1, 0, 1] if per_channel else [0.5], np.float32)
    dense = weight * scale[:, None, None, None] + shift[:, None, None, None]

    def build(a):
        return Builder.conv_quantized(
            x=a,
            weight=weight,
            quantization_type="linear",
            nbits=8,
            quant_scale=scale,
            quant_bias=shift,
            strides=[2, 1],
        )

    result = run(build, x, target=ct.target.iOS15)[0]
    close(result, F.conv2d(_t(x), _t(dense.astype(np.float32)), stride=(2, 1)), 1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 6, 3, 4)])
def test_local_response_norm(run, rng, size, shape):
    x = (rng.standard_normal(shape) * 4).astype(np.float32)
    options = {"alpha": np.float32(0.3), "beta": np.float32(0.6), "k": np.float32(1.5)}

    def build(a):
        return Builder.local_response_norm(x=a, size=size, **options), Builder.local_response_norm(x=a, size=size)

    chosen, default = run(build, x)
    close(chosen, F.local_response_norm(_t(x), size, 0.3, 0.6, 1.5), 1e-5)
    close(default, F.local_response_norm(_t(x), size), 1e-5)
