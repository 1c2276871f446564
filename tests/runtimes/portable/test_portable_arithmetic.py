"""Operations that compute element by element or reduce, against numpy or torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import close


def _erf(x):
    return torch.erf(torch.from_numpy(x).double()).numpy()


UNARY = {
    "abs": np.abs,
    "acos": lambda x: np.arccos(x),
    "asin": lambda x: np.arcsin(x),
    "atan": np.arctan,
    "atanh": lambda x: np.arctanh(x),
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": _erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": np.round,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sin": np.sin,
    "sinh": np.sinh,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(run, rng, name):
    scale = 0.9 if name in ("acos", "asin", "atanh") else 3
    x = (rng.uniform(-1, 1, (2, 3, 5)) * scale).astype(np.float32)
    close(run(lambda a: getattr(Builder, name)(x=a), x)[0], UNARY[name](x.astype(np.float64)), 1e-5)


def test_half_rounds_to_even(run):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert run(lambda a: Builder.round(x=a), x)[0].tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sqrt", np.sqrt),
        ("rsqrt", lambda x: 1 / np.sqrt(x + 0.25)),
        ("inverse", lambda x: 1 / (x + 0.25)),
        ("log", lambda x: np.log(x + 0.25)),
    ],
)
def test_roots_and_logarithms_add_their_epsilon(run, rng, name, reference):
    x = rng.uniform(0.1, 4, (4, 5)).astype(np.float32)
    options = {} if name == "sqrt" else {"epsilon": np.float32(0.25)}
    close(run(lambda a: getattr(Builder, name)(x=a, **options), x)[0], reference(x), 1e-5)


BINARY = {
    "add": np.add,
    "floor_div": np.floor_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "real_div": np.divide,
    "sub": np.subtract,
}
COMPARISON = {
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "not_equal": np.not_equal,
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts(run, rng, name):
    x = rng.uniform(-4, 4, (2, 1, 5)).astype(np.float32)
    y = rng.uniform(0.5, 2, (3, 1)).astype(np.float32) * np.array([[1], [-1], [1]], np.float32)
    close(run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0], BINARY[name](x, y), 1e-5)


@pytest.mark.parametrize("name", BINARY)
def test_integers_stay_integers(run, rng, name):
    x = rng.integers(-20, 20, (4, 5)).astype(np.int32)
    y = np.array([3, -3, 7, 2, -5], np.int32)
    expected = np.trunc(x / y) if name == "real_div" else BINARY[name](x, y)
    result = run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0]
    assert result.dtype == np.int32
    assert (result == expected).all()


def test_constant_on_either_side(run, rng):
    x = rng.standard_normal((2, 3)).astype(np.float32)
    close(run(lambda a: Builder.sub(x=np.float32(1), y=a), x)[0], 1 - x)
    close(run(lambda a: Builder.pow(x=np.float32(2), y=a), x)[0], 2.0**x)


@pytest.mark.parametrize("name", COMPARISON)
def test_comparison_and_choice(run, rng, name):
    x, y = (rng.integers(0, 3, (4, 5)).astype(np.int32) for _ in range(2))

    def build(a, b):
        return Builder.select(cond=getattr(Builder, name)(x=a, y=b), a=a, b=b)

    assert (run(build, x, y)[0] == np.where(COMPARISON[name](x, y), x, y)).all()


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor", "logical_not"])
def test_logic(run, name):
    x, y = np.array([0, 0, 1, 2], np.int32), np.array([0, 3, 0, 1], np.int32)

    def build(a, b):
        a, b = Builder.cast(x=a, dtype="bool"), Builder.cast(x=b, dtype="bool")
        result = Builder.logical_not(x=a) if name == "logical_not" else getattr(Builder, name)(x=a, y=b)
        return Builder.cast(
            x=Builder.logical_and(x=result, y=Builder.logical_or(x=b, y=Builder.logical_not(x=b))), dtype="int32"
        )

    p, q = x != 0, y != 0
    expected = {"logical_and": p & q, "logical_or": p | q, "logical_xor": p ^ q, "logical_not": ~p}[name]
    assert (run(build, x, y)[0] == expected).all()


def test_cast(run):
    x = np.array([-1.9, -0.2, 0.0, 1.7, 300.0], np.float32)
    assert run(lambda a: Builder.cast(x=a, dtype="int32"), x)[0].tolist() == [-1, 0, 0, 1, 300]
    flags = run(lambda a: Builder.cast(x=Builder.cast(x=a, dtype="bool"), dtype="fp32"), x)[0]
    assert flags.tolist() == [1, 1, 0, 1, 1]
    big = np.array([70000, 5], np.int32)
    wrapped = run(lambda a: Builder.cast(x=Builder.cast(x=a, dtype="uint16"), dtype="int32"), big)[0]
    assert wrapped.tolist() == [70000 - 65536, 5]


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(run, rng, mode):
    x = rng.uniform(-5, 5, (3, 7)).astype(np.float32)
    z = x.astype(np.float64)
    expected = {
        "EXACT": 0.5 * z * (1 + _erf(z / np.sqrt(2))),
        "TANH_APPROXIMATION": 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
        "SIGMOID_APPROXIMATION": z / (1 + np.exp(-1.702 * z)),
    }[mode]
    close(run(lambda a: Builder.gelu(x=a, mode=mode), x)[0], expected, 1e-5)


def test_parametric_activations(run, rng):
    x = rng.uniform(-5, 5, (2, 3, 4, 4)).astype(np.float32)
    slope, bound = np.float32(0.3), np.float32(2.5)
    channel = np.array([0.1, 0.2, 0.3], np.float32)
    per_channel = channel[:, None, None]
    cases = [
        (lambda a: Builder.clip(x=a, alpha=-slope, beta=bound), np.clip(x, -slope, bound)),
        (lambda a: Builder.threshold(x=a, alpha=slope), np.maximum(x, slope)),
        (lambda a: Builder.leaky_relu(x=a, alpha=slope), np.where(x < 0, x * slope, x)),
        (lambda a: Builder.thresholded_relu(x=a, alpha=slope), np.where(x < slope, 0, x)),
        (lambda a: Builder.elu(x=a, alpha=slope), np.where(x < 0, slope * (np.exp(x) - 1), x)),
        (
            lambda a: Builder.clamped_relu(x=a, alpha=slope, beta=bound),
            np.minimum(np.where(x < 0, x * slope, x), bound),
        ),
        (lambda a: Builder.linear_activation(x=a, alpha=slope, beta=bound), x * slope + bound),
        (lambda a: Builder.scaled_tanh(x=a, alpha=slope, beta=bound), slope * np.tanh(x * bound)),
        (lambda a: Builder.sigmoid_hard(x=a, alpha=slope, beta=bound), np.clip(x * slope + bound, 0, 1)),
        (lambda a: Builder.prelu(x=a, alpha=channel), np.where(x < 0, x * per_channel, x)),
        (
            lambda a: Builder.softplus_parametric(x=a, alpha=channel, beta=channel),
            per_channel * np.log1p(np.exp(x * per_channel)),
        ),
    ]
    for build, expected in cases:
        close(run(build, x)[0], expected, 1e-5)


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_softmax(run, rng, axis):
    x = rng.standard_normal((2, 5, 3, 4)).astype(np.float32) * 8
    e = np.exp(x - x.max(axis, keepdims=True))
    expected = e / e.sum(axis, keepdims=True)
    close(run(lambda a: Builder.softmax(x=a, axis=axis), x)[0], expected)
    turned = x.transpose(0, 3, 2, 1)  # the same values, with another axis fastest in memory

    def build(a):
        return Builder.softmax(x=Builder.transpose(x=a, perm=[0, 3, 2, 1]), axis=axis)

    close(run(build, turned)[0], expected)


@pytest.mark.parametrize("axes", [[1], [-1], [2, 3], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(run, rng, axes, affine):
    x = rng.standard_normal((2, 5, 3, 4)).astype(np.float32)
    positive = sorted(axis % 4 for axis in axes)
    shape = [x.shape[axis] for axis in positive]
    gamma, beta = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    options = {"gamma": gamma, "beta": beta} if affine else {}
    mean, var = x.mean(tuple(positive), keepdims=True), x.var(tuple(positive), keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-3)
    if affine:
        wide = [x.shape[axis] if axis in positive else 1 for axis in range(4)]
        expected = expected * gamma.reshape(wide) + beta.reshape(wide)
    close(run(lambda a: Builder.layer_norm(x=a, axes=axes, epsilon=np.float32(1e-3), **options), x)[0], expected, 2e-5)


def test_other_norms(run, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    mean, gamma, beta = (rng.standard_normal(3).astype(np.float32) for _ in range(3))
    variance = rng.uniform(0.5, 2, 3).astype(np.float32)
    wide = [1, 3, 1, 1]
    m, v, g, b = (p.reshape(wide) for p in (mean, variance, gamma, beta))

    def build(a):
        return Builder.batch_norm(x=a, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=np.float32(1e-3))

    close(run(build, x)[0], (x - m) / np.sqrt(v + 1e-3) * g + b, 1e-5)
    own_mean, own_var = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)

    def build(a):
        return Builder.instance_norm(x=a, gamma=gamma, beta=beta, epsilon=np.float32(1e-3))

    close(run(build, x)[0], (x - own_mean) / np.sqrt(own_var + 1e-3) * g + b, 1e-5)
    length = np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-2)
    close(run(lambda a: Builder.l2_norm(x=a, epsilon=np.float32(1e-2)), x)[0], x / length, 1e-5)


REDUCTIONS = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_prod": np.prod,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt((x**2).sum(axis=axis, keepdims=keepdims)),
    "reduce_sum_square": lambda x, axis, keepdims: (x**2).sum(axis=axis, keepdims=keepdims),
    "reduce_log_sum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(("axes", "keep"), [([1], False), ([-1, 0], True), (None, False)])
def test_reduction(run, rng, name, axes, keep):
    x = rng.uniform(0.5, 1.5, (2, 3, 4)).astype(np.float32)
    expected = REDUCTIONS[name](x.astype(np.float64), axis=None if axes is None else tuple(axes), keepdims=keep)
    close(run(lambda a: getattr(Builder, name)(x=a, axes=axes, keep_dims=keep), x)[0], expected, 1e-5)


def test_argmax_takes_the_first_of_equals(run):
    x = np.array([[1, 7, 7, 0], [3, -2, 3, -2]], np.float32)
    largest = run(lambda a: Builder.reduce_argmax(x=a, axis=-1, keep_dims=True), x)[0]
    assert largest.dtype == np.int32
    assert largest.tolist() == [[1], [0]]
    assert run(lambda a: Builder.reduce_argmin(x=a, axis=1), x)[0].tolist() == [3, 1]


@pytest.mark.parametrize(("exclusive", "reverse"), [(False, False), (True, False), (False, True), (True, True)])
def test_cumsum(run, exclusive, reverse):
    x = np.array([[1, 2, np.inf], [4, 5, 6]], np.float32)
    expected = {
        (False, False): [[1, 3, np.inf], [4, 9, 15]],
        (True, False): [[0, 1, 3], [0, 4, 9]],
        (False, True): [[np.inf, np.inf, np.inf], [15, 11, 6]],
        (True, True): [[np.inf, np.inf, 0], [11, 6, 0]],
    }[exclusive, reverse]
    assert run(lambda a: Builder.cumsum(x=a, axis=1, exclusive=exclusive, reverse=reverse), x)[0].tolist() == expected
