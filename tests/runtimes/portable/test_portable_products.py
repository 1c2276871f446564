"""Products of matrices and convolutions, against numpy or torch."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import close

F = torch.nn.functional


def _t(array):
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize(
    ("shapes", "flags"),
    [
        (((2, 3), (3, 4)), (False, False)),
        (((5, 3, 2), (4, 3)), (True, True)),
        (((2, 1, 3, 4), (5, 4, 2)), (False, False)),
        (((4,), (4, 3)), (False, False)),
    ],
)
def test_matmul(run, rng, shapes, flags):
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    left = x.swapaxes(-1, -2) if flags[0] else x
    right = y.swapaxes(-1, -2) if flags[1] else y
    options = {"transpose_x": flags[0], "transpose_y": flags[1]}
    close(run(lambda a, b: Builder.matmul(x=a, y=b, **options), x, y)[0], left @ right, 1e-5)
    close(run(lambda a: Builder.matmul(x=a, y=y, **options), x)[0], left @ right, 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)])
def test_linear(run, rng, bias, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    w, b = rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal(5).astype(np.float32)

    def build(a):
        return Builder.linear(x=a, weight=w, **({"bias": b} if bias else {}))

    close(run(build, x)[0], x @ w.T + (b if bias else 0), 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("types", [(np.int32, np.float32), (np.float32, np.int32), (np.int32, np.int32)])
def test_linear_of_integers_beside_floats(run, rng, types, bias):
    """numpy multiplies the two in float64, and so does coremltools' value inference; the result has the type of x."""
    x = rng.integers(-(2**26), 2**26, (2, 4, 7)).astype(types[0])
    w = rng.integers(-2, 3, (5, 7)).astype(types[1]) + (np.float32(0.25) if types[1] is np.float32 else np.int32(0))
    b = rng.integers(-(2**20), 2**20, 5).astype(types[1])
    expected = x @ w.T + (b if bias else 0)
    assert np.abs(expected).max() > 2**24  # beyond what float32 holds

    def build(a):
        return Builder.linear(x=a, weight=w, **({"bias": b} if bias else {}))

    (result,) = run(build, x)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, expected.astype(x.dtype))


def test_linear_of_half_beside_integers(run, rng):
    x, w = rng.standard_normal((3, 7)).astype(np.float16), rng.integers(-9, 9, (5, 7)).astype(np.int32)
    (result,) = run(lambda a: Builder.linear(x=a, weight=w, bias=np.arange(5, dtype=np.int32)), x)
    np.testing.assert_array_equal(result, (x @ w.T.astype(float) + np.arange(5)).astype(np.float16))


def test_linear_of_a_large_weight_beside_integers(run, rng, monkeypatch):
    """The weight is widened a slice at a time."""
    monkeypatch.setattr("optimum_ane.runtimes.portable.ops.linear._SLICE", 20)
    x, w = rng.integers(-9, 9, (3, 7)).astype(np.int32), rng.integers(-9, 9, (5, 7)).astype(np.float32)
    np.testing.assert_array_equal(run(lambda a: Builder.linear(x=a, weight=w), x)[0], x @ w.T.astype(int))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("types", [(np.int32, np.float32), (np.float32, np.int32), (np.float16, np.int32)])
@pytest.mark.parametrize("flags", [(False, False), (True, True)])
def test_matmul_of_integers_beside_floats(run, rng, types, flags, first):
    """The first type is that of the operand which is no constant, and of the result."""
    bound = 99 if np.float16 in types else 2**13  # of sums that float32 does not hold
    x, y = rng.integers(-bound, bound, (4, 7)), rng.integers(-bound, bound, (7, 5))
    x, y = (x.astype(types[0]), y.astype(types[1])) if first else (x.astype(types[1]), y.astype(types[0]))
    assert np.float16 in types or np.abs(x.astype(float) @ y.astype(float)).max() > 2**24
    left, right = (x.T if flags[0] else x), (y.T if flags[1] else y)
    options = {"transpose_x": flags[0], "transpose_y": flags[1]}

    def build(a):
        return Builder.matmul(**({"x": a, "y": right} if first else {"x": left, "y": a}), **options)

    (result,) = run(build, left.copy() if first else right.copy())
    assert result.dtype == types[0]
    np.testing.assert_array_equal(result, (x.astype(float) @ y.astype(float)).astype(types[0]))


def test_one_weight_serves_several_biases(run, rng):
    x = rng.standard_normal((4, 7)).astype(np.float32)
    w = rng.standard_normal((5, 7)).astype(np.float32)
    b, c = (rng.standard_normal(5).astype(np.float32) for _ in range(2))

    def build(a):
        shared = Builder.const(val=w)
        return Builder.linear(x=a, weight=shared, bias=b), Builder.linear(x=a, weight=shared, bias=c)

    first, second = run(build, x)
    close(first, x @ w.T + b, 1e-5)
    close(second, x @ w.T + c, 1e-5)


@pytest.mark.parametrize(
    ("equation", "x", "y"),
    [
        ("bchq,bqhk->bchk", (1, 6, 1, 4), (1, 4, 1, 5)),
        ("nchw,nwhu->nchu", (2, 6, 3, 4), (2, 4, 3, 5)),
        ("nchw,nwhu->nchu", (2, 6, 1, 4), (1, 4, 3, 5)),
        ("chw,whr->chr", (6, 3, 4), (4, 3, 5)),
    ],
)
def test_einsum(run, rng, equation, x, y):
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in (x, y))
    head = [max(x.shape[0], y.shape[0])] if x.ndim == 4 else []
    height = max(x.shape[-2], y.shape[-2])
    wide_x = np.broadcast_to(x, (*head, x.shape[-3], height, x.shape[-1]))
    wide_y = np.broadcast_to(y, (*head, y.shape[-3], height, y.shape[-1]))
    expected = np.einsum(equation, wide_x, wide_y)
    close(run(lambda a, b: Builder.einsum(values=(a, b), equation=equation), x, y)[0], expected, 1e-5)
    close(run(lambda a: Builder.einsum(values=(a, y), equation=equation), x)[0], expected, 1e-5)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 6, 1, 9), (8, 6, 1, 1), {}),
        ((3, 6, 2, 9), (8, 6, 1, 1), {"pad_type": "same"}),
        ((2, 6, 9), (8, 6, 1), {}),
        ((2, 6, 9), (8, 3, 1), {"groups": 2}),
        ((2, 6, 9), (8, 6, 1), {"strides": [2]}),
        ((2, 6, 9), (8, 6, 1), {"pad_type": "custom", "pad": [1, 2]}),
        ((2, 6, 9, 8), (8, 3, 3, 2), {"groups": 2, "dilations": [2, 1], "strides": [1, 2]}),
        ((2, 6, 9, 8), (8, 6, 3, 2), {"pad_type": "custom", "pad": [1, 0, 2, 1]}),
        ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(run, rng, x, w, options, bias):
    x, w = rng.standard_normal(x).astype(np.float32), rng.standard_normal(w).astype(np.float32)
    b = rng.standard_normal(w.shape[0]).astype(np.float32) if bias else None
    axes = x.ndim - 2
    padded = _t(x)
    if options.get("pad_type") == "custom":
        pads = np.reshape(options["pad"], (-1, 2))[::-1].flatten().tolist()
        padded = F.pad(padded, pads)
    expected = (F.conv1d, F.conv2d, F.conv3d)[axes - 1](
        padded,
        _t(w),
        None if b is None else _t(b),
        options.get("strides", 1),
        0,
        options.get("dilations", 1),
        options.get("groups", 1),
    )

    def build(a):
        return Builder.conv(x=a, weight=w, **({} if b is None else {"bias": b}), **options)

    close(run(build, x)[0], expected.numpy(), 1e-5)


@pytest.mark.parametrize("pad_type", ["same", "same_lower"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv_keeps_the_extent(run, rng, pad_type, stride):
    x, w = rng.standard_normal((1, 2, 8)).astype(np.float32), rng.standard_normal((3, 2, 4)).astype(np.float32)
    total = max((-(-8 // stride) - 1) * stride + 4 - 8, 0)
    sides = (total // 2, total - total // 2)
    expected = F.conv1d(F.pad(_t(x), sides if pad_type == "same" else sides[::-1]), _t(w), stride=stride)

    def build(a):
        return Builder.conv(x=a, weight=w, pad_type=pad_type, strides=[stride])

    close(run(build, x)[0], expected.numpy(), 1e-5)


def test_conv_with_a_computed_weight(run, rng):
    x, w = rng.standard_normal((1, 4, 1, 5)).astype(np.float32), rng.standard_normal((3, 4, 1, 1)).astype(np.float32)
    expected = np.einsum("bchw,oc->bohw", x, w[:, :, 0, 0])
    close(run(lambda a, b: Builder.conv(x=a, weight=b), x, w)[0], expected, 1e-5)


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("form", ["linear", "matmul", "conv"])
def test_few_rows_by_a_weight_of_fp16(run, rng, rows, form):
    """Up to 16 rows another kernel multiplies, which keeps the weight in fp16; its sums are float32 as well."""
    x = rng.standard_normal((1, rows, 70)).astype(np.float16)
    w, b = rng.standard_normal((37, 70)).astype(np.float16), rng.standard_normal(37).astype(np.float16)
    w[0, :4], w[1, :4] = [65504, -65504, 6e-8, -6e-8], [6e-5, 2**-14, 2**-24, 0]
    expected = x.astype(np.float64) @ w.T.astype(np.float64) + (0 if form == "matmul" else b.astype(np.float64))

    def build(a):
        if form == "linear":
            return Builder.linear(x=a, weight=w, bias=b)
        if form == "matmul":
            return Builder.matmul(x=a, y=w, transpose_y=True)
        a = Builder.expand_dims(x=Builder.transpose(x=a, perm=[0, 2, 1]), axes=[2])
        y = Builder.squeeze(x=Builder.conv(x=a, weight=w[:, :, None, None], bias=b), axes=[2])
        return Builder.transpose(x=y, perm=[0, 2, 1])

    for precision in ("program", "float32"):
        (result,) = run(build, x, precision=precision, target=ct.target.iOS17)
        with np.errstate(over="ignore"):
            rounded = expected.astype(np.float16).astype(np.float64)
        np.testing.assert_allclose(result.astype(np.float64), rounded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_weight_of_fp16_that_is_not_finite(run, value):
    w = np.ones((3, 2), np.float16)
    w[1, 1] = value
    (result,) = run(lambda a: Builder.linear(x=a, weight=w), np.ones((1, 2), np.float16))
    np.testing.assert_array_equal(result, [[2, value, 2]])


def test_a_vector_by_a_weight_of_fp16(run, rng):
    x, w = rng.standard_normal(7).astype(np.float16), rng.standard_normal((5, 7)).astype(np.float16)
    (result,) = run(lambda a: Builder.linear(x=a, weight=w), x)
    np.testing.assert_allclose(result, w.astype(np.float32) @ x.astype(np.float32), rtol=1e-3, atol=1e-3)
