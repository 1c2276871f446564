"""Operations that move, cut, pick and generate values, against numpy."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder
from portable_programs import close


def test_shapes(run, rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    cases = [
        (lambda a: Builder.transpose(x=a, perm=[2, 0, 1]), x.transpose(2, 0, 1)),
        (lambda a: Builder.transpose(x=a, perm=[-1, 0, -2]), x.transpose(2, 0, 1)),
        (lambda a: Builder.reshape(x=a, shape=[4, -1]), x.reshape(4, 6)),
        (lambda a: Builder.reshape(x=a, shape=[0, -1, 0]), x),
        (lambda a: Builder.reshape(x=a, shape=[1, 0, -1, 0]), x.reshape(1, 2, 3, 4)),
        (lambda a: Builder.expand_dims(x=a, axes=[0, -1]), x[None, ..., None]),
        (lambda a: Builder.squeeze(x=Builder.expand_dims(x=a, axes=[0, 2]), axes=[0]), x[:, None]),
        (lambda a: Builder.squeeze(x=Builder.expand_dims(x=a, axes=[0, 2])), x),
        (lambda a: Builder.flatten2d(x=a, axis=2), x.reshape(6, 4)),
        (lambda a: Builder.tile(x=a, reps=[1, 2, 3]), np.tile(x, (1, 2, 3))),
        (lambda a: Builder.reverse(x=a, axes=[0, -1]), x[::-1, :, ::-1]),
        (lambda a: Builder.stack(values=[a, a], axis=1), np.stack([x, x], 1)),
        (lambda a: Builder.concat(values=[a, a], axis=-1), np.concatenate([x, x], -1)),
        (lambda a: Builder.concat(values=[a], axis=0), x),
        (
            lambda a: Builder.concat(values=[a, Builder.exp(x=a)], axis=1, interleave=True),
            np.stack([x, np.exp(x)], 2).reshape(2, 6, 4),
        ),
        (lambda a: Builder.slice_by_size(x=a, begin=[0, 1, -3], size=[2, -1, 2]), x[:, 1:, 1:3]),
        (lambda a: Builder.band_part(x=a, lower=1, upper=0), np.tril(x) - np.tril(x, -2)),
        (lambda a: Builder.band_part(x=a, lower=-1, upper=1), np.triu(np.ones((3, 4)), -9) * x - np.triu(x, 2)),
    ]
    for build, expected in cases:
        result = run(build, x)[0]
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_concat_of_transposed_views(run, rng):
    x = rng.standard_normal((1, 2, 3, 5)).astype(np.float32)

    def build(a):
        turned = Builder.transpose(x=a, perm=[0, 3, 1, 2])
        return Builder.concat(values=[turned, Builder.mul(x=turned, y=np.float32(2))], axis=1)

    y = x.transpose(0, 3, 1, 2)
    close(run(build, x)[0], np.concatenate([y, 2 * y], 1))


def test_split(run, rng):
    x = rng.standard_normal((2, 6)).astype(np.float32)
    for part, expected in zip(
        run(lambda a: Builder.split(x=a, num_splits=3, axis=1), x), np.split(x, 3, 1), strict=True
    ):
        close(part, expected)
    uneven = run(lambda a: Builder.split(x=a, split_sizes=[1, 3, 2], axis=-1), x)
    for part, expected in zip(uneven, np.split(x, [1, 4], 1), strict=True):
        close(part, expected)


@pytest.mark.parametrize(
    ("options", "index"),
    [
        ({"begin": [0, 1, 0], "end": [2, 5, 3]}, np.s_[0:2, 1:5, 0:3]),
        ({"begin": [0, -4, 0], "end": [2, -1, 99]}, np.s_[0:2, -4:-1, 0:99]),
        ({"begin": [0, 0, 0], "end": [0, 5, 0], "stride": [1, 2, 3], "end_mask": [True, False, True]},
         np.s_[:, 0:5:2, ::3]),
        ({"begin": [0, 5, 0], "end": [2, 0, 4], "stride": [1, -2, 1]}, np.s_[0:2, 5:0:-2, :]),
        ({"begin": [1, 0, 0], "end": [0, 0, 0], "stride": [-1, -1, 1], "begin_mask": [False, True, True],
          "end_mask": [True, True, True]}, np.s_[1::-1, ::-1, :]),
        ({"begin": [0, -2, 0], "end": [2, 0, 4], "squeeze_mask": [False, True, False]}, np.s_[:, -2, :]),
    ],
)  # fmt: skip
def test_slice_by_index(run, rng, options, index):
    x = rng.standard_normal((2, 6, 4)).astype(np.float32)
    close(run(lambda a: Builder.slice_by_index(x=a, **options), x)[0], x[index])


def test_slice_at_a_computed_place(run, rng):
    x = rng.standard_normal((5, 4)).astype(np.float32)
    begin = np.array([3, 1], np.int32)

    def build(a, b):
        return Builder.slice_by_size(x=a, begin=b, size=[2, 3])

    close(run(build, x, begin)[0], x[3:5, 1:4])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(run, rng, mode):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    more = {"constant_values": 2.5} if mode == "constant" else {}
    expected = np.pad(x, [(0, 0), (1, 2), (3, 0)], "edge" if mode == "replicate" else mode, **more)

    def build(a):
        return Builder.pad(x=a, pad=[1, 2, 3, 0], mode=mode, constant_val=np.float32(2.5))

    close(run(build, x)[0], expected)


def test_generated_values(run):
    x = np.zeros((2, 3), np.float32)
    assert run(lambda a: Builder.shape(x=a), x)[0].tolist() == [2, 3]
    filled = run(lambda a: Builder.fill(shape=Builder.shape(x=a), value=np.float32(1.5)), x)[0]
    assert filled.tolist() == [[1.5] * 3] * 2
    end = np.array([9], np.int32)

    def build(e):
        return Builder.range_1d(start=2, end=Builder.squeeze(x=e), step=3)

    counted = run(build, end)[0]
    assert counted.dtype == np.int32
    assert counted.tolist() == [2, 5, 8]


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(run, rng, target, axis):
    x = rng.standard_normal((4, 5, 6)).astype(np.float32)
    indices = np.array([[0, 3], [2, 1]], np.int32)

    def build(a, i):
        return Builder.gather(x=a, indices=i, axis=axis)

    close(run(build, x, indices, target=target)[0], np.take(x, indices, axis))
    close(
        run(lambda i: Builder.gather(x=x, indices=i, axis=axis), indices, target=target)[0], np.take(x, indices, axis)
    )


def test_gather_counts_negative_indices_from_the_end(run, rng):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    indices = np.array([-1, 0, -4], np.int32)
    close(run(lambda a, i: Builder.gather(x=a, indices=i, axis=0), x, indices, target=ct.target.iOS16)[0], x[indices])


@pytest.mark.parametrize(("axis", "batch_dims"), [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_gather_in_batches(run, rng, axis, batch_dims):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    lead = x.shape[:batch_dims]
    indices = rng.integers(0, 3, (*lead, 6, 2)).astype(np.int32)
    expected = np.empty((*lead, *x.shape[batch_dims:axis], 6, 2, *x.shape[axis + 1 :]), np.float32)
    for place in np.ndindex(*lead):
        expected[place] = np.take(x[place], indices[place], axis - batch_dims)

    def build(a, i):
        return Builder.gather(x=a, indices=i, axis=axis, batch_dims=batch_dims)

    close(run(build, x, indices)[0], expected)


def test_gather_along_axis_and_by_coordinates(run, rng):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    along = rng.integers(0, 4, (3, 2, 5)).astype(np.int32)

    def build(a, i):
        return Builder.gather_along_axis(x=a, indices=i, axis=1)

    close(run(build, x, along)[0], np.take_along_axis(x, along, 1))
    places = np.array([[[0, 1], [2, 3]], [[1, 0], [2, 2]]], np.int32)
    close(run(lambda a, i: Builder.gather_nd(x=a, indices=i), x, places)[0], x[places[..., 0], places[..., 1]])
    rows = np.array([[[1], [3]], [[0], [0]], [[2], [1]]], np.int32)

    def build(a, i):
        return Builder.gather_nd(x=a, indices=i, batch_dims=1)

    close(run(build, x, rows)[0], x[np.arange(3)[:, None], rows[..., 0]])


def test_order_and_one_hot(run):
    x = np.array([[3, 1, 3, 2], [0, 5, 4, 5]], np.float32)
    values, places = run(lambda a: Builder.topk(x=a, k=2, axis=1), x)
    assert values.tolist() == [[3, 3], [5, 5]]
    assert places.tolist() == [[0, 2], [1, 3]]
    assert run(lambda a: Builder.argsort(x=a, axis=1, ascending=True), x)[0].tolist() == [[1, 3, 0, 2], [0, 2, 1, 3]]
    indices = np.array([1, 0, 7], np.int32)

    def build(i):
        return Builder.one_hot(indices=i, one_hot_vector_size=3, on_value=np.float32(2), off_value=np.float32(-1))

    assert run(build, indices)[0].tolist() == [[-1, 2, -1], [2, -1, -1], [-1, -1, -1]]
    assert run(lambda a: Builder.non_zero(x=a), x)[0][:3].tolist() == [[0, 0], [0, 1], [0, 2]]
