"""fp16 as the program declares it: rounded after each operation, sums accumulated in float32."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder


def _half(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float16)


@pytest.mark.parametrize(
    ("name", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("real_div", np.divide)]
)
def test_arithmetic_is_that_of_numpy_rounded_once(run, rng, name, function):
    x, y = _half(rng, 64, 64), _half(rng, 64, 64) + np.float16(0.01)
    result = run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0]
    expected = function(x.astype(np.float32), y.astype(np.float32)).astype(np.float16)
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, expected)


def test_each_operation_rounds(run, rng):
    x = _half(rng, 32, 32)

    def build(a):
        for _ in range(5):
            a = Builder.mul(x=Builder.add(x=Builder.square(x=a), y=np.float16(0.1)), y=np.float16(0.7))
        return a

    expected = x
    for _ in range(5):
        squared = np.square(expected.astype(np.float32)).astype(np.float16)
        summed = (squared.astype(np.float32) + np.float32(np.float16(0.1))).astype(np.float16)
        expected = (summed.astype(np.float32) * np.float32(np.float16(0.7))).astype(np.float16)
    np.testing.assert_array_equal(run(build, x)[0], expected)
    unrounded = run(build, x, precision="float32")[0]
    exact = x.astype(np.float64)
    for _ in range(5):
        exact = (exact**2 + float(np.float16(0.1))) * float(np.float16(0.7))
    np.testing.assert_array_equal(unrounded, exact.astype(np.float16))
    assert (unrounded != expected).any()


def test_overflow_is_infinite_and_comes_back(run):
    x = np.array([300, -300, 1], np.float16)

    def build(a):
        return (
            Builder.square(x=a),
            Builder.inverse(x=Builder.mul(x=a, y=np.float16(65504)), epsilon=np.float16(0)),
        )

    square, inverse = run(build, x)
    assert square.tolist() == [np.inf, np.inf, 1]
    assert inverse[:2].tolist() == [0, 0]


def test_values_below_the_range_vanish(run):
    x = np.array([1e-4, 2e-8], np.float32)
    result = run(lambda a: Builder.cast(x=Builder.cast(x=a, dtype="fp16"), dtype="fp32"), x)[0]
    assert result.tolist() == [float(np.float16(1e-4)), 0]


def test_float32_operations_do_not_round(run, rng):
    x = rng.standard_normal((8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(lambda a: Builder.mul(x=a, y=np.float32(1.1)), x)[0], x * np.float32(1.1))


@pytest.mark.parametrize("dynamic", [True, False])
def test_products_accumulate_in_float32(run, rng, dynamic):
    x, y = _half(rng, 16, 2048), _half(rng, 2048, 8)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    result = (
        run(lambda a, b: Builder.matmul(x=a, y=b), x, y) if dynamic else run(lambda a: Builder.matmul(x=a, y=y), x)
    )[0]
    unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(result.astype(np.float64) - exact) <= unit).all()
    # A sum of fp16 terms kept in fp16 is many units away: the bound above tells the two apart.
    kept = np.zeros((16, 8), np.float16)
    for k in range(2048):
        kept = (kept + x[:, k, None] * y[None, k]).astype(np.float16)
    assert (np.abs(kept.astype(np.float64) - exact) > unit).any()


def test_convolution_accumulates_in_float32(run, rng):
    x, w, b = _half(rng, 1, 512, 1, 9), _half(rng, 8, 512, 1, 1), _half(rng, 8)
    exact = np.einsum("oc,bchw->bohw", w[:, :, 0, 0].astype(np.float64), x.astype(np.float64)) + b[:, None, None]
    result = run(lambda a: Builder.conv(x=a, weight=w, bias=b), x)[0]
    unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(result - exact) <= unit).all()


@pytest.mark.parametrize("layout", [[0, 1, 2, 3], [0, 3, 2, 1]])
def test_softmax_and_norm_round_once(run, rng, layout):
    x = _half(rng, 1, 40, 1, 6, scale=4)
    z = x.transpose(layout).astype(np.float64)

    def build(a):
        a = Builder.transpose(x=a, perm=layout)
        return Builder.softmax(x=a, axis=1), Builder.layer_norm(x=a, axes=[1], epsilon=np.float16(1e-3))

    softmax, norm = run(build, x)
    e = np.exp(z - z.max(1, keepdims=True))
    exact = e / e.sum(1, keepdims=True)
    assert (np.abs(softmax - exact) <= np.spacing(exact.astype(np.float16)).astype(np.float64)).all()
    exact = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + float(np.float16(1e-3)))
    unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(norm - exact) <= unit + 1e-6).all()


def test_moving_values_changes_none(run, rng):
    x = _half(rng, 4, 6)

    def build(a):
        a = Builder.concat(values=Builder.split(x=a, num_splits=2, axis=1)[::-1], axis=1)
        return Builder.gather(x=Builder.maximum(x=a, y=np.float16(-0.5)), indices=[2, 0], axis=0)

    expected = np.maximum(np.concatenate([x[:, 3:], x[:, :3]], 1), np.float16(-0.5))[[2, 0]]
    np.testing.assert_array_equal(run(build, x)[0], expected)


def test_weights_of_another_type_than_the_input(run, rng):
    x, w = rng.standard_normal((4, 7)).astype(np.float32), _half(rng, 5, 7)
    result = run(lambda a: Builder.linear(x=a, weight=w), x)[0]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, x @ w.astype(np.float32).T, rtol=1e-5, atol=1e-5)
