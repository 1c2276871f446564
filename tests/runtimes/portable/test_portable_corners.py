"""Corners of the operations: every rank, negative axes, single and missing elements, ties, infinities and NaN; against
numpy and against coremltools' own value inference.
"""

from __future__ import annotations

import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder

from optimum_ane.errors import ExecutionError

SHAPES = [(5,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (1, 2, 3, 2, 4)]
ODD = np.array([-np.inf, -2.5, -0.0, 0.0, 0.5, 3, np.inf, np.nan], np.float32)


def _inferred(build, *arrays):
    """What coremltools computes when all operands are constants."""
    results = []

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1,))], opset_version=ct.target.iOS17)
    def program(unused):
        result = build(*(Builder.const(val=array) for array in arrays))
        results.extend(result if isinstance(result, tuple) else (result,))
        return Builder.identity(x=unused)

    return [result.val for result in results]


UNARY = [
    "abs acos asin atan atanh ceil cos cosh erf exp exp2 floor relu relu6 round sign sin sinh sqrt square tan tanh",
    "sigmoid softplus softsign silu identity",
]


@pytest.mark.parametrize("name", " ".join(UNARY).split())
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_unary_of_odd_numbers_is_as_inferred(run, name, dtype):
    odd = ODD.astype(dtype)

    def build(a):
        return getattr(Builder, name)(x=a)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = _inferred(build, odd)
    if expected is None:  # coremltools infers no value for these
        z = odd.astype(np.float64)
        with np.errstate(all="ignore"):
            expected = {
                "identity": z,
                "silu": z / (1 + np.exp(-z)),
                "softsign": z / (1 + np.abs(z)),
            }[name]
    (result,) = run(build, odd)
    if name in ("softplus", "sigmoid", "silu"):
        # numpy's spelling overflows at the ends, where the limits are plain.
        keep = np.isfinite(odd)
        result, expected = result[keep], np.asarray(expected)[keep]
    np.testing.assert_allclose(result, np.asarray(expected, np.float64), rtol=2e-3 if dtype is np.float16 else 1e-5)


def test_limits_of_activations(run):
    x = np.array([-np.inf, np.inf, -200, 200], np.float32)

    def build(a):
        return Builder.sigmoid(x=a), Builder.softplus(x=a), Builder.tanh(x=a), Builder.elu(x=a, alpha=np.float32(2))

    sigmoid, softplus, tanh, elu = run(build, x)
    assert sigmoid.tolist() == [0, 1, 0, 1]
    assert softplus.tolist() == [0, np.inf, 0, 200]
    assert tanh.tolist() == [-1, 1, -1, 1]
    assert elu.tolist() == [-2, np.inf, -2, 200]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "real_div", "maximum", "minimum", "pow"])
def test_binary_of_odd_numbers_is_that_of_numpy(run, name):
    x, y = np.meshgrid(ODD, ODD)
    function = {"sub": np.subtract, "mul": np.multiply, "real_div": np.divide, "pow": np.power}.get(name)
    with np.errstate(all="ignore"):
        expected = (function or getattr(np, name))(x, y)
    result = run(lambda a, b: getattr(Builder, name)(x=a, y=b), x, y)[0]
    np.testing.assert_allclose(result, expected, rtol=1e-6 if name == "pow" else 0)


@pytest.mark.parametrize("name", ["equal", "not_equal", "greater", "greater_equal", "less", "less_equal"])
def test_comparison_of_odd_numbers_is_that_of_numpy(run, name):
    x, y = np.meshgrid(ODD, ODD)

    def build(a, b):
        return Builder.cast(x=getattr(Builder, name)(x=a, y=b), dtype="int32")

    np.testing.assert_array_equal(run(build, x, y)[0], getattr(np, name)(x, y))


def test_bounds_keep_what_is_no_number(run):
    def build(a):
        half, two = np.float32(0.5), np.float32(2)
        return (
            Builder.clip(x=a, alpha=half, beta=two),
            Builder.threshold(x=a, alpha=half),
            Builder.thresholded_relu(x=a, alpha=half),
            Builder.leaky_relu(x=a, alpha=half),
            Builder.clamped_relu(x=a, alpha=half, beta=two),
        )

    clipped, bounded, cut, leaky, clamped = run(build, ODD)
    np.testing.assert_array_equal(clipped, np.clip(ODD, 0.5, 2))
    np.testing.assert_array_equal(bounded, np.maximum(ODD, 0.5))
    np.testing.assert_array_equal(cut, np.where(ODD < 0.5, 0, ODD))
    np.testing.assert_array_equal(leaky, np.where(ODD < 0, ODD * 0.5, ODD))
    np.testing.assert_array_equal(clamped, np.minimum(np.where(ODD < 0, ODD * 0.5, ODD), 2))


REDUCTIONS = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_prod": np.prod,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "reduce_sum_square": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_reduction_of_every_rank(run, rng, name, dtype):
    for shape in SHAPES:
        x = rng.integers(-3, 4, shape).astype(dtype)
        axes = [[int(a)] for a in (-1, 0)] + [list(range(-len(shape), 0))]
        cases = [(a, keep) for a in axes for keep in (True, False)]
        results = run(
            lambda v, cases=cases: tuple(getattr(Builder, name)(x=v, axes=a, keep_dims=k) for a, k in cases), x
        )
        for (chosen, keep), result in zip(cases, results, strict=True):
            expected = np.asarray(REDUCTIONS[name](x.astype(np.float64), axis=tuple(chosen), keepdims=keep))
            expected = np.trunc(expected) if dtype is np.int32 else expected
            assert result.dtype == dtype
            assert result.shape == (expected.shape or (1,))
            np.testing.assert_allclose(
                result.reshape(expected.shape), expected, rtol=1e-3 if dtype is np.float16 else 1e-6
            )


def test_reductions_of_infinities(run):
    x = np.array([[-np.inf, -np.inf], [1, -np.inf], [np.inf, 0], [np.nan, 1]], np.float32)

    def build(a):
        return (
            Builder.reduce_log_sum_exp(x=a, axes=[1]),
            Builder.reduce_max(x=a, axes=[1]),
            Builder.reduce_sum(x=a, axes=[-1]),
            Builder.softmax(x=a, axis=1),
        )

    total, largest, plain, softmax = run(build, x)
    np.testing.assert_array_equal(total, [-np.inf, 1, np.inf, np.nan])
    np.testing.assert_array_equal(largest, [-np.inf, 1, np.inf, np.nan])
    np.testing.assert_array_equal(plain, [-np.inf, -np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(softmax, [[np.nan] * 2, [1, 0], [np.nan] * 2, [np.nan] * 2])


def test_order_of_ties_and_of_what_is_no_number(run):
    x = np.array([[2, 5, 2, 5, -1], [0.0, np.nan, -0.0, np.inf, -np.inf]], np.float32)

    def build(a):
        return (
            Builder.argsort(x=a, axis=-1),
            Builder.argsort(x=a, axis=1, ascending=True),
            *Builder.topk(x=a, k=5, axis=-1),
            *Builder.topk(x=a, k=3, axis=1, ascending=True),
        )

    down, up, values, places, few, where = run(build, x)
    assert down.tolist() == [[1, 3, 0, 2, 4], [3, 0, 2, 4, 1]]
    assert up.tolist() == [[4, 0, 2, 1, 3], [4, 0, 2, 3, 1]]
    assert places.tolist() == down.tolist()
    np.testing.assert_array_equal(values, np.take_along_axis(x, down, 1))
    assert where.tolist() == [row[:3] for row in up.tolist()]
    np.testing.assert_array_equal(few, np.take_along_axis(x, where, 1))


def test_topk_forms(run, rng):
    x = rng.permutation(24).reshape(2, 3, 4).astype(np.int32)

    def build(a):
        values = Builder.topk(x=a, k=2, axis=-2, return_indices=False, sort=False)
        _, narrow = Builder.topk(x=a, k=2, axis=-2, output_indices_dtype="uint16")
        return values, Builder.cast(x=narrow, dtype="int32")

    values, places = run(build, x)
    np.testing.assert_array_equal(places, np.argsort(-x, axis=1)[:, :2])
    np.testing.assert_array_equal(values, -np.sort(-x, axis=1)[:, :2])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_every_rank(run, rng, shape):
    x = rng.standard_normal(shape).astype(np.float16)
    rank = len(shape)
    cases = [
        (lambda a: Builder.transpose(x=a, perm=list(range(-1, -rank - 1, -1))), x.T),
        (lambda a: Builder.reverse(x=a), x[(slice(None, None, -1),) * rank]),
        (lambda a: Builder.tile(x=a, reps=[2] * rank), np.tile(x, [2] * rank)),
        (lambda a: Builder.reshape(x=a, shape=[-1]), x.ravel()),
        (lambda a: Builder.concat(values=[a, a, a], axis=-rank), np.concatenate([x] * 3, 0)),
        (lambda a: Builder.concat(values=[a, a], axis=-1, interleave=True), np.repeat(x, 2, -1)),
        (lambda a: Builder.split(x=a, num_splits=shape[-1], axis=-1)[-1], x[..., -1:]),
        (lambda a: Builder.pad(x=a, pad=[1, 2] * rank, constant_val=np.float16(-np.inf)),
         np.pad(x, [(1, 2)] * rank, constant_values=-np.inf)),
        (lambda a: Builder.slice_by_index(x=a, begin=[0] * rank, end=[0] * rank, stride=[-1] * rank,
                                          begin_mask=[True] * rank, end_mask=[True] * rank),
         x[(slice(None, None, -1),) * rank]),
        (lambda a: Builder.slice_by_index(x=a, begin=[-1] * rank, end=[0] * rank, squeeze_mask=[True] * rank),
         x[(-1,) * rank]),
        (lambda a: Builder.gather(x=a, indices=np.int32(shape[-1] - 1), axis=-1), x[..., -1]),
        (lambda a: Builder.gather(x=a, indices=np.array([[0], [1]], np.int32), axis=-1),
         x[..., np.array([[0], [1]])] if rank < 5 else None),
        (lambda a: Builder.gather_along_axis(x=a, indices=np.zeros(shape, np.int32), axis=-1),
         np.broadcast_to(x[..., :1], shape)),
        (lambda a: Builder.fill_like(ref_tensor=a, value=np.float16(3)), np.full(shape, 3)),
        (lambda a: Builder.cumsum(x=a, axis=-1), np.cumsum(x.astype(np.float64), -1)),
    ]  # fmt: skip
    kept = [(build, expected) for build, expected in cases if expected is not None]
    results = run(lambda a: tuple(build(a) for build, _ in kept), x)
    for result, (_, expected) in zip(results, kept, strict=True):
        expected = np.asarray(expected)
        assert result.shape == (expected.shape or (1,))
        np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=2e-3, atol=2e-3)


def test_numbers_of_rank_0(run):
    x = np.array([3, 4], np.float32)

    def build(a):
        first = Builder.slice_by_index(x=a, begin=[0], end=[1], squeeze_mask=[True])
        second = Builder.squeeze(x=Builder.slice_by_size(x=a, begin=[1], size=[1]))
        length = Builder.sqrt(x=Builder.add(x=Builder.square(x=first), y=Builder.square(x=second)))
        return (
            length,
            Builder.concat(values=[first, second, length], axis=0),
            Builder.stack(values=[first, length], axis=0),
            Builder.expand_dims(x=length, axes=[0, -1]),
            Builder.reduce_sum(x=a),
            Builder.reshape(x=length, shape=[1, 1, 1]),
        )

    length, joined, stacked, wide, total, shaped = run(build, x)
    assert length.tolist() == [5]
    assert joined.tolist() == [3, 4, 5]
    assert stacked.tolist() == [3, 5]
    assert wide.tolist() == [[5]]
    assert total.tolist() == [7]
    assert shaped.tolist() == [[[5]]]


def test_tensors_of_nothing(run):
    x = np.ones((3, 4), np.float32)

    def build(a):
        none = Builder.slice_by_index(x=a, begin=[1, 0], end=[1, 4])
        return (
            Builder.exp(x=none),
            Builder.concat(values=[none, a], axis=0),
            Builder.reduce_sum(x=none, axes=[0]),
            Builder.matmul(x=Builder.transpose(x=none, perm=[1, 0]), y=none),
            Builder.softmax(x=none, axis=0),
            Builder.linear(x=none, weight=np.ones((2, 4), np.float32)),
            Builder.gather(x=a, indices=np.zeros((0,), np.int32), axis=0),
            Builder.reverse(x=none, axes=[0]),
            Builder.cumsum(x=none, axis=0),
        )

    results = run(build, x)
    shapes = [(0, 4), (3, 4), (4,), (4, 4), (0, 4), (0, 2), (0, 4), (0, 4), (0, 4)]
    assert [result.shape for result in results] == shapes
    assert results[2].tolist() == [0] * 4
    assert not results[3].any()


def test_squeeze_leaves_other_axes_alone(run):
    x = np.zeros((1, 3, 1), np.float32)
    kept, dropped = run(lambda a: (Builder.squeeze(x=a, axes=[0, 1]), Builder.squeeze(x=a, axes=[-1, 0])), x)
    assert kept.shape == (3, 1)
    assert dropped.shape == (3,)


def test_non_zero_and_band_part_of_flags(run):
    x = np.array([[[0, 2, 0], [np.nan, 0, -1], [1, 1, 1]]], np.float32)

    def build(a):
        flags = Builder.cast(x=a, dtype="bool")
        kept = Builder.band_part(x=flags, lower=0, upper=1)
        return Builder.non_zero(x=a), Builder.cast(x=kept, dtype="int32"), Builder.band_part(x=a, lower=0, upper=-1)

    places, band, upper = run(build, x)
    np.testing.assert_array_equal(places, np.argwhere(x != 0))
    assert band.tolist() == [[[0, 1, 0], [0, 0, 1], [0, 0, 1]]]
    np.testing.assert_array_equal(upper, [[[0, 2, 0], [0, 0, -1], [0, 0, 1]]])


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_one_hot_of_every_kind(run, axis):
    indices = np.array([[0, 2, -1], [5, 1, 2]], np.int32)

    def build(i):
        flags = Builder.one_hot(indices=i, one_hot_vector_size=3, axis=axis, on_value=True, off_value=False)
        return (
            Builder.cast(x=flags, dtype="int32"),
            Builder.one_hot(indices=i, one_hot_vector_size=3, axis=axis, on_value=7, off_value=-7),
        )

    hit = np.moveaxis(indices[..., None] == np.arange(3), -1, axis)
    flags, numbers = run(build, indices)
    np.testing.assert_array_equal(flags, hit)
    np.testing.assert_array_equal(numbers, np.where(hit, 7, -7))


@pytest.mark.parametrize(("start", "end", "step"), [(0, 5, 1), (5, 0, -2), (1.5, 3.0, 0.25), (2, 2, 1), (0, 1, 0.3)])
def test_ranges(run, start, end, step):
    kind = np.float32 if isinstance(step, float) else np.int32
    values = np.array([start, end, step], kind)

    def build(a):
        first, last, by = (Builder.squeeze(x=part) for part in Builder.split(x=a, num_splits=3, axis=0))
        return Builder.range_1d(start=first, end=last, step=by)

    np.testing.assert_allclose(run(build, values)[0], np.arange(start, end, step).astype(kind), rtol=1e-6)


def test_einsum_of_rank_3(run, rng):
    x, y = rng.standard_normal((2, 3, 4)).astype(np.float16), rng.standard_normal((4, 1, 5)).astype(np.float16)
    expected = np.einsum("chw,whr->chr", x.astype(float), np.broadcast_to(y, (4, 3, 5)).astype(float))
    result = run(lambda a, b: Builder.einsum(values=(a, b), equation="chw,whr->chr"), x, y)[0]
    np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_norms_of_every_rank(run, rng, rank, dtype):
    x = rng.standard_normal((2, 3, 4, 5, 2)[:rank]).astype(dtype)
    mean, variance = rng.standard_normal(3).astype(dtype), rng.uniform(0.5, 2, 3).astype(dtype)
    z, epsilon = torch.from_numpy(x.astype(np.float64)), dtype(0.125)

    def build(a):
        results = [
            Builder.batch_norm(x=a, mean=mean, variance=variance, epsilon=epsilon),
            Builder.l2_norm(x=a, epsilon=epsilon),
            Builder.layer_norm(x=a, axes=[-1], epsilon=epsilon),
            Builder.layer_norm(x=a, axes=list(range(rank)), epsilon=epsilon),
        ]
        return (*results, Builder.instance_norm(x=a, epsilon=epsilon)) if rank < 5 else tuple(results)

    shift, spread = (torch.from_numpy(a.astype(np.float64)).view(1, 3, *[1] * (rank - 2)) for a in (mean, variance))
    last = tuple(range(rank - 3, rank))
    expected = [
        (z - shift) / (spread + 0.125).sqrt(),
        z / (z.square().sum(last, keepdim=True) + 0.125).sqrt(),
        torch.layer_norm(z, z.shape[-1:], eps=0.125),
        torch.layer_norm(z, z.shape, eps=0.125),
        torch.nn.functional.instance_norm(z, eps=0.125),
    ]
    tolerance = 2e-3 if dtype is np.float16 else 1e-5
    results = run(build, x)
    for result, right in zip(results, expected[: len(results)], strict=True):
        np.testing.assert_allclose(result, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_products_of_integers(run, rng, flags):
    x, y = rng.integers(-9, 9, (2, 4, 4)).astype(np.int32), rng.integers(-9, 9, (4, 4)).astype(np.int32)
    left, right = (x.swapaxes(1, 2) if flags[0] else x), (y.T if flags[1] else y)

    def build(a, b):
        options = {"transpose_x": flags[0], "transpose_y": flags[1]}
        return (
            Builder.matmul(x=a, y=b, **options),
            Builder.matmul(x=a, y=y, **options),
            Builder.linear(x=b, weight=y, bias=np.arange(4, dtype=np.int32)),
        )

    dynamic, constant, linear = run(build, x, y)
    np.testing.assert_array_equal(dynamic, left @ right)
    np.testing.assert_array_equal(constant, left @ right)
    np.testing.assert_array_equal(linear, y @ y.T + np.arange(4))


ERRORS = [
    (lambda a, i: Builder.reshape(x=a, shape=Builder.concat(values=[i, i], axis=0)), [5], "reshape"),
    (lambda a, i: Builder.gather(x=a, indices=i, axis=0), [3], "gather"),
    (lambda a, i: Builder.slice_by_size(x=a, begin=i, size=[2, 4]), [2, 0], "slice_by_size"),
    (lambda a, i: Builder.fill(shape=i, value=np.float32(1)), [-2], "fill"),
    (lambda a, i: Builder.range_1d(start=0, end=5, step=Builder.squeeze(x=i)), [0], "range_1d"),
    (lambda a, i: Builder.tile(x=a, reps=i), [-1, 2], "tile"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "numbers", "name"), ERRORS, ids=[name for *_, name in ERRORS])
def test_what_cannot_be_computed_names_the_operation(run, build, numbers, name):
    with pytest.raises(ExecutionError, match=name):
        run(build, np.ones((3, 4), np.float32), np.array(numbers, np.int32))
