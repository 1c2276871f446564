"""Operations that write by index and that move blocks, against numpy written out element by element."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder

from optimum_ane.errors import ExecutionError

MODES = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": np.maximum,
    "min": np.minimum,
}
TARGETS = [ct.target.iOS16, ct.target.iOS17]


def _written(data, places, updates, mode):
    """Applies updates one after the other; `places` are indices of numpy, in step with the updates."""
    result = data.astype(np.float64)
    for place, update in zip(places, updates, strict=True):
        result[place] = MODES[mode](result[place], update)
    return np.trunc(result) if data.dtype.kind == "i" else result


def _numbers(rng, shape, dtype):
    if dtype is np.int32:
        return (rng.integers(1, 20, shape) * rng.choice([-1, 1], shape)).astype(np.int32)
    return rng.uniform(0.5, 2, shape).astype(dtype) * rng.choice([-1, 1], shape).astype(dtype)


def _close(result, expected, dtype):
    assert result.dtype == dtype
    tolerance = {np.int32: 0, np.float32: 1e-6, np.float16: 4e-3}[dtype]
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_scatter(run, rng, mode, axis, dtype):
    data = _numbers(rng, (5, 6, 4), dtype)
    indices = np.array([3, 0, 3, -1], np.int32)  # one of them twice
    updates = np.moveaxis(_numbers(rng, (4, *np.delete(data.shape, axis)), dtype), 0, axis)
    # Integer division truncates at every step, which truncating once at the end equals.
    expected = np.moveaxis(_written(np.moveaxis(data, axis, 0), indices, np.moveaxis(updates, axis, 0), mode), 0, axis)
    for target in TARGETS:
        result = run(
            lambda d, i, u: Builder.scatter(data=d, indices=i, updates=u, axis=axis, mode=mode),
            data,
            indices,
            updates,
            target=target,
        )
        _close(result[0], expected, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((3, 5), 1), ((3, 5), -2), ((2, 3, 4), 1), ((2, 1, 3, 2, 4), -1)]
)
def test_scatter_along_axis(run, rng, mode, shape, axis):
    data = _numbers(rng, shape, np.float32)
    count = 6
    lanes = list(shape)
    lanes[axis] = count
    indices = rng.integers(-shape[axis], shape[axis], lanes).astype(np.int32)
    updates = _numbers(rng, lanes, np.float32)
    places = []
    for place in np.ndindex(*lanes):
        at = list(place)
        at[axis] = indices[place]
        places.append(tuple(at))
    expected = _written(data, places, updates.flatten(), mode)

    def build(d, i, u):
        return Builder.scatter_along_axis(data=d, indices=i, updates=u, axis=axis, mode=mode)

    _close(run(build, data, indices, updates)[0], expected, np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("depth", "lead"), [(1, (4,)), (2, (3, 2)), (3, (6,)), (2, ())])
def test_scatter_nd(run, rng, mode, depth, lead):
    data = _numbers(rng, (3, 4, 5), np.float32)
    indices = np.stack([rng.integers(0, extent, lead) for extent in data.shape[:depth]], -1).astype(np.int32)
    updates = _numbers(rng, (*lead, *data.shape[depth:]), np.float32)
    places = [tuple(place) for place in indices.reshape(-1, depth)]
    expected = _written(data, places, updates.reshape(len(places), *data.shape[depth:]), mode)

    def build(d, i, u):
        return Builder.scatter_nd(data=d, indices=i, updates=u, mode=mode)

    _close(run(build, data, indices, updates)[0], expected, np.float32)


def test_scatter_by_indices_of_any_rank(run, rng):
    data = rng.standard_normal((3, 5, 2)).astype(np.float32)
    table = np.array([[4, 0], [2, 4]], np.int32)
    single, many = rng.standard_normal((3, 2)).astype(np.float32), rng.standard_normal((3, 2, 2, 2)).astype(np.float32)

    def build(d, i):
        one = Builder.slice_by_index(x=i, begin=[0, 0], end=[1, 1], squeeze_mask=[True, True])
        return (
            Builder.scatter(data=d, indices=one, updates=single, axis=1, mode="update"),
            Builder.scatter(data=d, indices=i, updates=many, axis=-2, mode="add"),
        )

    updated, added = run(build, data, table)
    expected = data.copy()
    expected[:, 4] = single
    np.testing.assert_array_equal(updated, expected)
    expected = data.astype(np.float64)
    np.add.at(expected, (slice(None), table), many)
    np.testing.assert_allclose(added, expected, rtol=1e-6, atol=1e-6)


def test_the_mode_left_out_is_add(run):
    data, indices = np.ones(3, np.float32), np.array([1], np.int32)

    def build(d, i):
        return Builder.scatter(data=d, indices=i, updates=np.float32([5]))

    assert run(build, data, indices)[0].tolist() == [1, 6, 1]


def test_scatter_of_nothing_and_of_no_number(run):
    data = np.array([1, np.nan, -np.inf, 4], np.float32)
    indices = np.array([0, 1, 2], np.int32)
    updates = np.array([np.inf, 2, 3], np.float32)

    def build(d, i, u):
        nothing = Builder.slice_by_index(x=i, begin=[0], end=[0])
        none = Builder.slice_by_index(x=u, begin=[0], end=[0])
        return (
            Builder.scatter(data=d, indices=i, updates=u, mode="max"),
            Builder.scatter(data=d, indices=i, updates=u, mode="add"),
            Builder.scatter(data=d, indices=i, updates=u, mode="update"),
            Builder.scatter(data=d, indices=nothing, updates=none, mode="update"),
            Builder.scatter(data=d, indices=nothing, updates=none, mode="mul"),
        )

    largest, total, new, *same = run(build, data, indices, updates)
    np.testing.assert_array_equal(largest, [np.inf, np.nan, 3, 4])
    np.testing.assert_array_equal(total, [np.inf, np.nan, -np.inf, 4])
    np.testing.assert_array_equal(new, [np.inf, 2, 3, 4])
    for result in same:
        np.testing.assert_array_equal(result, data)


def test_many_updates_of_few_places_keep_the_last(run, rng):
    """More updates than a thread's share, so that several threads would write to the same place."""
    indices = rng.integers(0, 5, 200_000).astype(np.int32)
    updates = np.arange(indices.size, dtype=np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        result = run(
            lambda d, i, u: Builder.scatter(data=d, indices=i, updates=u, mode="update"),
            np.zeros(5, np.float32),
            indices,
            updates,
        )[0]
    finally:
        torch.set_num_threads(before)
    assert result.tolist() == [np.flatnonzero(indices == i)[-1] for i in range(5)]


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_outside_is_an_error(run, index):
    data = np.ones((5, 5), np.float32)
    index = np.array([index], np.int32)

    def builders(d, i):
        column = Builder.expand_dims(x=i, axes=[1])
        wide = Builder.tile(x=column, reps=[1, 5])
        return {
            "scatter": lambda: Builder.scatter(data=d, indices=i, updates=np.ones((1, 5), np.float32)),
            "along": lambda: Builder.scatter_along_axis(data=d, indices=wide, updates=np.ones((1, 5), np.float32)),
            "nd": lambda: Builder.scatter_nd(data=d, indices=column, updates=np.ones((1, 5), np.float32)),
            "gather": lambda: Builder.gather(x=d, indices=i),
            "gather along": lambda: Builder.gather_along_axis(x=d, indices=wide),
            "gather nd": lambda: Builder.gather_nd(x=d, indices=column),
            "batches": lambda: Builder.gather(x=d, indices=Builder.tile(x=column, reps=[5, 1]), axis=1, batch_dims=1),
        }

    for name in ("scatter", "along", "nd", "gather", "gather along", "gather nd", "batches"):
        with pytest.raises(ExecutionError, match="outside an axis of 5"):
            run(lambda d, i, name=name: builders(d, i)[name](), data, index)


def test_a_negative_index_is_an_error_where_the_program_asks(run):
    data, index = np.arange(5, dtype=np.float32), np.array([-1], np.int32)

    def build(d, i, validate):
        updates = np.float32([7])
        return (
            Builder.scatter(data=d, indices=i, updates=updates, mode="update", validate_indices=validate),
            Builder.gather(x=d, indices=i, validate_indices=validate),
        )

    scattered, gathered = run(lambda d, i: build(d, i, False), data, index)
    assert scattered.tolist() == [0, 1, 2, 3, 7]
    assert gathered.tolist() == [4]
    for place in (0, 1):
        with pytest.raises(ExecutionError, match="index -1 is outside"):
            run(lambda d, i, place=place: build(d, i, True)[place], data, index)


SLICES = [
    ({"begin": [0, 1, 0], "end": [2, 5, 3]}, np.s_[0:2, 1:5, 0:3]),
    ({"begin": [0, -4, 0], "end": [2, -1, 99], "stride": [1, 2, 3]}, np.s_[0:2, -4:-1:2, 0:99:3]),
    ({"begin": [0, 5, 3], "end": [2, 0, 0], "stride": [1, -2, -1]}, np.s_[0:2, 5:0:-2, 3:0:-1]),
    ({"begin": [1, 0, 0], "end": [0, 0, 0], "stride": [-1, -1, 1], "begin_mask": [False, True, True],
      "end_mask": [True, True, True]}, np.s_[1::-1, ::-1, :]),
    ({"begin": [0, -2, 0], "end": [2, 0, 4], "squeeze_mask": [False, True, False]}, np.s_[:, -2, :]),
    ({"begin": [1, 4, 0], "end": [0, 0, 4], "squeeze_mask": [True, True, False],
      "begin_mask": [False, True, False]}, np.s_[1, 0, :]),
    ({"begin": [0, 3, 0], "end": [2, 3, 4]}, np.s_[:, 3:3, :]),
    ({"begin": [0, 3, 0], "end": [2, 99, 4], "stride": [1, 7, 1]}, np.s_[:, 3:99:7, :]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "index"), SLICES)
@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_slice_update(run, rng, options, index, dtype):
    x = rng.integers(-99, 99, (2, 6, 4)).astype(dtype)
    update = rng.integers(100, 999, x[index].shape).astype(dtype)
    expected = x.copy()
    expected[index] = update

    def build(a):
        return Builder.slice_update(x=a, update=update, **options), Builder.slice_by_index(x=a, **options)

    updated, cut = run(build, x, target=ct.target.iOS18)
    np.testing.assert_array_equal(updated, expected)
    np.testing.assert_array_equal(cut, x[index])


def test_slice_update_at_a_computed_place(run, rng):
    x, update = rng.standard_normal((1, 8, 3)).astype(np.float32), rng.standard_normal((1, 2, 3)).astype(np.float32)
    begin, end = np.array([0, 5, 0], np.int32), np.array([1, 7, 3], np.int32)

    def build(a, u, b, e):
        return Builder.slice_update(x=a, update=u, begin=b, end=e)

    expected = x.copy()
    expected[:, 5:7] = update
    np.testing.assert_array_equal(run(build, x, update, begin, end, target=ct.target.iOS18)[0], expected)


def test_squeezing_an_index_that_is_not_there(run):
    x, begin = np.ones((2, 3), np.float32), np.array([0, 3], np.int32)

    def build(a, b):
        return Builder.slice_by_index(x=a, begin=b, end=[2, 3], squeeze_mask=[False, True])

    with pytest.raises(ExecutionError, match="out of range"):
        run(build, x, begin)


def test_depth_to_space_and_back(run, rng):
    x = rng.standard_normal((2, 12, 3, 4)).astype(np.float16)
    expected = np.empty((2, 3, 6, 8), np.float16)
    for n, c, h, w in np.ndindex(*expected.shape):
        expected[n, c, h, w] = x[n, (h % 2 * 2 + w % 2) * 3 + c, h // 2, w // 2]

    def build(a):
        spread = Builder.depth_to_space(x=a, block_size=2)
        return spread, Builder.space_to_depth(x=spread, block_size=2)

    spread, back = run(build, x)
    np.testing.assert_array_equal(spread, expected)
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_is_that_of_torch(run, rng, factor):
    x = rng.standard_normal((1, 2 * factor**2, 3, 4)).astype(np.float32)

    def build(a):
        spread = Builder.pixel_shuffle(x=a, upscale_factor=factor)
        return spread, Builder.pixel_unshuffle(x=spread, downscale_factor=np.uint32(factor))

    spread, back = run(build, x)
    np.testing.assert_array_equal(spread, torch.pixel_shuffle(torch.from_numpy(x), factor))
    np.testing.assert_array_equal(back, x)


def test_space_to_batch_and_back_as_core_ml(run):
    x = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 2, 4)
    rows = [[0, 1, 3], [0, 9, 11], [0, 2, 4], [0, 10, 12], [0, 5, 7], [0, 13, 15], [0, 6, 8], [0, 14, 16]]

    def build(a):
        spread = Builder.space_to_batch(x=a, block_shape=[2, 2], paddings=[[0, 0], [2, 0]])
        return spread, Builder.batch_to_space(x=spread, block_shape=[2, 2], crops=[[0, 0], [2, 0]])

    spread, back = run(build, x)
    np.testing.assert_array_equal(spread, np.array(rows).reshape(8, 1, 1, 3))
    np.testing.assert_array_equal(back, x)


def test_space_to_batch_with_unequal_blocks(run, rng):
    x = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 2)])  # (2, 3, 6, 9), blocks of (2, 3)

    def build(a):
        spread = Builder.space_to_batch(x=a, block_shape=[2, 3], paddings=[[1, 0], [0, 2]])
        return spread, Builder.batch_to_space(x=spread, block_shape=[2, 3], crops=[[1, 0], [0, 2]])

    spread, back = run(build, x)
    for n, c, h, w in np.ndindex(2, 3, 6, 9):
        assert spread[(h % 2 * 3 + w % 3) * 2 + n, c, h // 2, w // 3] == padded[n, c, h, w]
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize(("shape", "axis"), [((9,), 0), ((4, 9), -1), ((9, 3), 0), ((2, 9, 3, 2), -3)])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (4, 2), (9, 3), (3, 5)])
def test_sliding_windows(run, rng, shape, axis, size, stride):
    x = rng.standard_normal(shape).astype(np.float32)
    place = axis % len(shape)
    windows = [np.take(x, range(i, i + size), place) for i in range(0, 9 - size + 1, stride)]
    result = run(lambda a: Builder.sliding_windows(x=a, axis=axis, size=size, stride=stride), x)[0]
    np.testing.assert_array_equal(result, np.stack(windows, place))


@pytest.mark.parametrize(("seq_axis", "batch_axis"), [(1, 0), (0, 2), (-1, 1)])
def test_reverse_sequence(run, rng, seq_axis, batch_axis):
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    extent, rows = x.shape[seq_axis], x.shape[batch_axis]
    lengths = np.resize([extent, 0, 1, 2, extent - 1], rows).astype(np.int32)
    expected = x.copy()
    for row, length in enumerate(lengths):
        lane = np.moveaxis(expected, (batch_axis, seq_axis), (0, 1))[row]
        lane[:length] = lane[:length][::-1].copy()

    def build(a, n):
        return Builder.reverse_sequence(x=a, lengths=n, seq_axis=seq_axis, batch_axis=batch_axis)

    np.testing.assert_array_equal(run(build, x, lengths)[0], expected)


def test_reshape_like(run, rng):
    x = rng.standard_normal((6, 30)).astype(np.float32)
    first, second = np.ones((2, 3, 4), np.float32), np.ones((1, 5, 6), np.float32)

    def build(a, p, q):
        return (
            Builder.reshape_like(x=a, ref_tensors=(p, q), begins=(0, 1), ends=(2, 0), end_masks=(False, True)),
            Builder.reshape_like(x=p, ref_tensors=(p,), begins=(0,), ends=(-1,), end_masks=(True,)),
        )

    for target in (ct.target.iOS16, ct.target.iOS17):
        both, one = run(build, x, first, second, target=target)
        np.testing.assert_array_equal(both, x.reshape(2, 3, 5, 6))
        np.testing.assert_array_equal(one, first)
