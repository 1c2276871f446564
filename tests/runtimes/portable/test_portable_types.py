"""Element types: casts between all of them, division of integers, and what infinities and NaN become."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder

TARGET = ct.target.iOS17
NARROW = ["int8", "uint8", "int16", "uint16"]
FLOATS = {"fp16": np.float16, "fp32": np.float32}
INT_MIN = -(2**31)


def _type(name):
    return FLOATS[name] if name in FLOATS else np.dtype(name)


@pytest.mark.parametrize("source", ["fp16", "fp32", "int32"])
@pytest.mark.parametrize("via", ["fp16", "fp32", "int32", "bool", *NARROW])
@pytest.mark.parametrize("target", ["fp16", "fp32", "int32", "bool", *NARROW])
def test_casts(run, source, via, target):
    """From an input to any type, and from that to any other; numpy's `astype` is coremltools' value inference."""
    values = np.array([0, 1, -1, 2, 127, 128, 255, 256, -128, -129, 300, 2049, 32768, 65504, 65520, 1e5, -7e4])
    x = (values if source == "int32" else np.concatenate([values, [1.9, -1.9, 0.4, -0.4, 1e-8]])).astype(_type(source))
    result = run(
        lambda a: Builder.cast(x=Builder.cast(x=Builder.cast(x=a, dtype=via), dtype=target), dtype="fp32"),
        x,
        target=TARGET,
    )[0]
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(x.astype(_type(via)).astype(np.float64))
        expected = x.astype(_type(via)).astype(_type(target)).astype(np.float32)
    # Of infinity as an integer nothing is said.
    keep = finite if target not in (*FLOATS, "bool") else np.ones_like(finite)
    keep &= np.isfinite(x) | (via in (*FLOATS, "bool"))
    np.testing.assert_array_equal(result[keep], expected[keep])


def test_nan_and_infinity_cast(run):
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    as_bool, as_half = run(
        lambda a: (Builder.cast(x=Builder.cast(x=a, dtype="bool"), dtype="int32"), Builder.cast(x=a, dtype="fp16")), x
    )
    assert as_bool.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(as_half, x.astype(np.float16))
    for name in NARROW:
        result = run(lambda a, n=name: Builder.cast(x=Builder.cast(x=a, dtype=n), dtype="int32"), x, target=TARGET)[0]
        assert result.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("real_div", lambda x, y: np.trunc(x / y).astype(np.int32)),
        ("floor_div", np.floor_divide),
        ("mod", np.mod),
    ],
)
def test_division_of_integers(run, name, function):
    x, y = (a.ravel().astype(np.int32) for a in np.meshgrid([-7, -6, -1, 0, 1, 5, 2**31 - 1], [-3, -1, 1, 2, 7]))
    np.testing.assert_array_equal(run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0], function(x, y))


@pytest.mark.parametrize(("name", "least"), [("real_div", INT_MIN), ("floor_div", INT_MIN), ("mod", 0)])
def test_division_of_integers_that_has_no_answer(run, name, least):
    """By zero is 0 and the least integer by −1 wraps, as in numpy, where a processor would stop the program."""
    x, y = np.array([5, -5, 0, INT_MIN, 9], np.int32), np.array([0, 0, 0, -1, 3], np.int32)
    result = run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0]
    assert result.tolist() == [0, 0, 0, least, 0 if name == "mod" else 3]
    by_scalar = run(lambda a: getattr(Builder, name)(x=a, y=np.int32(0)), x)[0]
    assert by_scalar.tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", np.add),
        ("floor_div", np.floor_divide),
        ("maximum", np.maximum),
        ("minimum", np.minimum),
        ("mod", np.mod),
        ("mul", np.multiply),
        ("real_div", np.divide),
        ("sub", np.subtract),
        ("equal", np.equal),
        ("greater", np.greater),
        ("less_equal", np.less_equal),
        ("not_equal", np.not_equal),
    ],
)
def test_arithmetic_beyond_numbers(run, dtype, name, function):
    special = np.array([0, -0.0, 1, -1, 2.5, -5, np.inf, -np.inf, np.nan, 65504, -65504, 6e-8], dtype)
    x, y = (a.ravel() for a in np.meshgrid(special, special))
    compares = function(x[:1], y[:1]).dtype == np.bool_

    def build(a, b):
        result = getattr(Builder, name)(x=a, y=b)
        return Builder.cast(x=result, dtype="int32") if compares else result

    result = run(build, x, y)[0]
    with np.errstate(all="ignore"):
        expected = function(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_array_equal(result, expected.astype(np.int32 if compares else dtype))


UNARY = {
    "abs": np.abs,
    "atan": np.arctan,
    "ceil": np.ceil,
    "exp": np.exp,
    "floor": np.floor,
    "relu": lambda x: np.where(np.isnan(x), x, np.maximum(x, 0)),
    "round": np.round,
    "rsqrt": lambda x: 1 / np.sqrt(x + 0),  # the epsilon makes −0 a 0
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", UNARY)
def test_functions_beyond_numbers(run, dtype, name):
    x = np.array([0, -0.0, 1, -1, 0.5, -2.5, np.inf, -np.inf, np.nan, 300, -300, 65504], dtype)
    options = {"epsilon": dtype(0)} if name == "rsqrt" else {}
    result = run(lambda a: getattr(Builder, name)(x=a, **options), x)[0]
    with np.errstate(all="ignore"):
        expected = UNARY[name](x.astype(np.float64)).astype(dtype)
    # torch's square root of 65504 is one float32 step off, to where two halves are equally near.
    np.testing.assert_allclose(result, expected, rtol=2e-6 if dtype is np.float32 else 1e-3)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("reduce_sum", np.sum),
        ("reduce_mean", np.mean),
        ("reduce_prod", np.prod),
        ("reduce_max", np.max),
        ("reduce_min", np.min),
        ("reduce_l1_norm", lambda x, axis: np.abs(x).sum(axis)),
        ("reduce_l2_norm", lambda x, axis: np.sqrt(np.square(x).sum(axis))),
        ("reduce_sum_square", lambda x, axis: np.square(x).sum(axis)),
        ("reduce_log_sum", lambda x, axis: np.log(np.sum(x, axis))),
        ("reduce_log_sum_exp", lambda x, axis: np.log(np.exp(x.astype(np.float64)).sum(axis))),
    ],
)
def test_reductions_of_integers_truncate(run, name, function):
    x = np.array([[3, 4, 6], [10, 7, 1]], np.int32)
    result = run(lambda a: getattr(Builder, name)(x=a, axes=[1]), x)[0]
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, function(x, axis=1).astype(np.int32))


def test_reductions_of_nan(run):
    x = np.array([[1, np.nan, 3], [1, np.inf, -np.inf], [np.inf, 1, 2]], np.float32)
    for name, function in (("reduce_max", np.max), ("reduce_min", np.min), ("reduce_sum", np.sum)):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(
                run(lambda a, n=name: getattr(Builder, n)(x=a, axes=[1]), x)[0], function(x, axis=1)
            )


def test_integers_wrap(run):
    x = np.array([2**31 - 1, INT_MIN, 2**16], np.int32)
    added, squared = run(lambda a: (Builder.add(x=a, y=np.int32(1)), Builder.mul(x=a, y=a)), x)
    assert added.tolist() == [INT_MIN, INT_MIN + 1, 2**16 + 1]
    assert squared.tolist() == [1, 0, 0]


def test_softmax_of_nothing_but_minus_infinity(run):
    x = np.array([[-np.inf, -np.inf], [0, -np.inf]], np.float32)
    (result,) = run(lambda a: Builder.softmax(x=a, axis=-1), x)
    np.testing.assert_array_equal(result, [[np.nan, np.nan], [1, 0]])


def test_a_mask_beyond_halves_is_infinite(run):
    """The −3.4e38 of many checkpoints: infinity in fp16, and a row that it fills is NaN after the softmax."""
    x = np.array([[1.0, -3.4e38], [-3.4e38, -3.4e38]], np.float32)
    (result,) = run(lambda a: Builder.softmax(x=Builder.cast(x=a, dtype="fp16"), axis=-1), x)
    np.testing.assert_array_equal(result, np.array([[1, 0], [np.nan, np.nan]], np.float16))
