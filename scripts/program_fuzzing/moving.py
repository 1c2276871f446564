"""Moves that change shapes, pick and write."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder

from program_fuzzing.maker import MAX_RANK, Maker, move


@move
def transpose(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 2)
    if x is None:
        return False
    rank = len(m.shape(x))
    perm = [int(p) - (rank if m.chance(0.2) else 0) for p in m.rng.permutation(rank)]
    return m.add(
        f"transpose {perm}",
        lambda a: Builder.transpose(x=a, perm=perm),
        lambda a: a.transpose([p % rank for p in perm]),
        x,
    )


@move
def reshape(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    rest, shape = int(np.prod(m.shape(x))), []
    while rest > 1 and len(shape) < MAX_RANK - 1:
        factor = m.choice([d for d in range(1, rest + 1) if rest % d == 0])
        shape.append(factor)
        rest //= factor
    shape.append(rest)
    asked = list(shape)
    asked[m.integer(0, len(shape))] = -1
    return m.add(f"reshape {asked}", lambda a: Builder.reshape(x=a, shape=asked), lambda a: a.reshape(shape), x)


@move
def expand_dims(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim < MAX_RANK)
    if x is None:
        return False
    axis = m.axis(len(m.shape(x)) + 1)
    return m.add(
        f"expand_dims {axis}", lambda a: Builder.expand_dims(x=a, axes=[axis]), lambda a: np.expand_dims(a, axis), x
    )


@move
def squeeze(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 2 and 1 in a.shape)
    if x is None:
        return False
    shape = m.shape(x)
    axis = m.choice([i for i, n in enumerate(shape) if n == 1]) - (len(shape) if m.chance(0.5) else 0)
    return m.add(f"squeeze {axis}", lambda a: Builder.squeeze(x=a, axes=[axis]), lambda a: np.squeeze(a, axis), x)


@move
def concat(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1 and a.size <= 256)
    if x is None:
        return False
    kind, shape = m.kind(x), m.shape(x)
    axis = m.axis(len(shape))
    interleave = m.chance(0.3)

    def fits(a: np.ndarray) -> bool:
        if a.ndim != len(shape):
            return False
        return a.shape == shape or (
            not interleave and np.array_equal(np.delete(a.shape, axis), np.delete(shape, axis))
        )

    y = m.pick(kind, fits)
    at = axis % len(shape)

    def meaning(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not interleave:
            return np.concatenate([a, b], axis)
        result = np.empty((*a.shape[:at], 2 * a.shape[at], *a.shape[at + 1 :]), a.dtype)
        lead = (slice(None),) * at
        result[(*lead, slice(0, None, 2))], result[(*lead, slice(1, None, 2))] = a, b
        return result

    return m.add(
        f"concat {axis} {interleave}",
        lambda a, b: Builder.concat(values=[a, b], axis=axis, interleave=interleave),
        meaning,
        x,
        y,
    )


@move
def stack(m: Maker) -> bool:
    x = m.pick("fi", lambda a: 1 <= a.ndim < MAX_RANK and a.size <= 256)
    if x is None:
        return False
    kind, shape = m.kind(x), m.shape(x)
    y = m.pick(kind, lambda a: a.shape == shape)
    axis = m.axis(len(shape) + 1)
    return m.add(
        f"stack {axis}",
        lambda a, b: Builder.stack(values=[a, b], axis=axis),
        lambda a, b: np.stack([a, b], axis),
        x,
        y,
    )


@move
def split(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1 and max(a.shape) >= 2)
    if x is None:
        return False
    shape = m.shape(x)
    axis = m.choice([i for i, n in enumerate(shape) if n >= 2])
    cut = m.integer(1, shape[axis])
    part = m.integer(0, 2)
    return m.add(
        f"split {axis} at {cut}",
        lambda a: Builder.split(x=a, split_sizes=[cut, shape[axis] - cut], axis=axis)[part],
        lambda a: np.split(a, [cut], axis)[part],
        x,
    )


@move
def slice_by_index(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    shape = m.shape(x)
    begin, end, stride, index = [], [], [], []
    masks: dict[str, list[bool]] = {"begin_mask": [], "end_mask": [], "squeeze_mask": []}
    for extent in shape:
        first, last = sorted(int(i) for i in m.rng.integers(0, extent, 2))
        jump, to_end = m.integer(1, 4), False
        if m.chance(0.3):
            begin.append(last)
            end.append(max(first - 1, 0))
            to_end = first == 0  # coremltools 9 rewrites an end before the first element to 0, which is after it
            jump = -jump
        else:
            begin.append(first - (extent if m.chance(0.3) else 0))
            end.append(last + 1)
        stride.append(jump)
        squeezed = m.chance(0.15) and sum(masks["squeeze_mask"]) < len(shape) - 1
        opened = [m.chance(0.15), to_end or m.chance(0.15)]
        masks["squeeze_mask"].append(squeezed)
        masks["begin_mask"].append(opened[0] and not squeezed)
        masks["end_mask"].append(opened[1])
        if squeezed:
            index.append(begin[-1])
        else:
            index.append(slice(None if opened[0] else begin[-1], None if opened[1] else end[-1], jump))
    chosen = tuple(index)
    return m.add(
        f"slice_by_index {chosen}",
        lambda a: Builder.slice_by_index(x=a, begin=begin, end=end, stride=stride, **masks),
        lambda a: a[chosen],
        x,
    )


@move
def slice_by_size(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    begin = [m.integer(0, n) for n in m.shape(x)]
    size = [-1 if m.chance(0.3) else m.integer(1, n - b + 1) for n, b in zip(m.shape(x), begin, strict=True)]
    cut = tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))
    return m.add(
        f"slice_by_size {cut}", lambda a: Builder.slice_by_size(x=a, begin=begin, size=size), lambda a: a[cut], x
    )


@move
def tile(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1 and a.size <= 128)
    if x is None:
        return False
    reps = [m.integer(1, 3) for _ in m.shape(x)]
    return m.add(f"tile {reps}", lambda a: Builder.tile(x=a, reps=reps), lambda a: np.tile(a, reps), x)


@move
def reverse(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axes = m.axes(len(m.shape(x)))
    return m.add(f"reverse {axes}", lambda a: Builder.reverse(x=a, axes=axes), lambda a: np.flip(a, axes), x)


@move
def pad(m: Maker) -> bool:
    mode = m.choice(["constant", "reflect", "replicate"])
    # Core ML pads by reflection or replication one or two axes at most.
    x = m.pick("f", lambda a: a.ndim >= (1 if mode == "constant" else 3) and a.size <= 256 and min(a.shape[-2:]) >= 2)
    if x is None:
        return False
    rank = len(m.shape(x))
    axes = m.integer(1, (rank if mode == "constant" else 2) + 1)
    amounts = [m.integer(0, 2) for _ in range(2 * axes)]
    value = m.scalar(0.75)
    pairs = [(0, 0)] * (rank - axes) + list(zip(amounts[::2], amounts[1::2], strict=True))
    more = {"constant_values": float(value)} if mode == "constant" else {}
    return m.add(
        f"pad {mode} {amounts}",
        lambda a: Builder.pad(x=a, pad=amounts, mode=mode, constant_val=value),
        lambda a: np.pad(a, pairs, "edge" if mode == "replicate" else mode, **more),
        x,
    )


@move
def gather(m: Maker) -> bool:
    x = m.pick("fi", lambda a: 1 <= a.ndim < MAX_RANK)
    if x is None:
        return False
    axis = m.axis(len(m.shape(x)))
    shape = [m.integer(1, 4) for _ in range(m.integer(1, 3))]
    indices = m.rng.integers(0, m.shape(x)[axis], shape).astype(np.int32)
    return m.add(
        f"gather {axis} {shape}",
        lambda a: Builder.gather(x=a, indices=indices, axis=axis),
        lambda a: np.take(a, indices, axis),
        x,
    )


@move
def gather_along_axis(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axis = m.axis(len(m.shape(x)))
    shape = list(m.shape(x))
    shape[axis] = m.integer(1, 5)
    indices = m.rng.integers(0, m.shape(x)[axis], shape).astype(np.int32)
    return m.add(
        f"gather_along_axis {axis}",
        lambda a: Builder.gather_along_axis(x=a, indices=indices, axis=axis),
        lambda a: np.take_along_axis(a, indices, axis),
        x,
    )


@move
def scatter(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 1)
    if x is None:
        return False
    mode = m.choice(["update", "add", "sub", "mul", "max", "min"])
    axis = m.axis(len(m.shape(x)))
    indices = m.rng.integers(0, m.shape(x)[axis], m.integer(1, 4)).astype(np.int32)
    updates = m.constant(_lanes(m, x, axis, indices.size))
    combine = {"update": lambda _, b: b, "add": np.add, "sub": np.subtract, "mul": np.multiply}
    function = {**combine, "max": np.maximum, "min": np.minimum}[mode]

    def meaning(a: np.ndarray) -> np.ndarray:
        result = np.moveaxis(a.copy(), axis, 0)
        for row, update in zip(indices, np.moveaxis(updates.astype(float), axis, 0), strict=True):
            result[row] = function(result[row], update)
        return np.moveaxis(result, 0, axis)

    return m.add(
        f"scatter {mode} {axis} {indices.tolist()}",
        lambda a: Builder.scatter(data=a, indices=indices, updates=updates, axis=axis, mode=mode),
        meaning,
        x,
    )


def _lanes(m: Maker, x: int, axis: int, count: int) -> list[int]:
    shape = list(m.shape(x))
    shape[axis] = count
    return shape


@move
def one_hot(m: Maker) -> bool:
    x = m.pick("i", lambda a: a.ndim < MAX_RANK)
    if x is None:
        return False
    size, axis = m.integer(1, 5), m.axis(len(m.shape(x)) + 1)
    on, off = m.scalar(1.5), m.scalar(-0.5)

    def meaning(a: np.ndarray) -> np.ndarray:
        hit = a[..., None] == np.arange(size)
        return np.moveaxis(np.where(hit, float(on), float(off)), -1, axis)

    return m.add(
        f"one_hot {size} {axis}",
        lambda a: Builder.one_hot(indices=a, one_hot_vector_size=size, axis=axis, on_value=on, off_value=off),
        meaning,
        x,
    )


@move
def band_part(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 2)
    if x is None:
        return False
    lower, upper = m.integer(-1, 3), m.integer(-1, 3)

    def meaning(a: np.ndarray) -> np.ndarray:
        rows, columns = np.indices(a.shape[-2:])
        keep = (lower < 0) | (rows - columns <= lower)
        return np.where(keep & ((upper < 0) | (columns - rows <= upper)), a, 0)

    return m.add(f"band_part {lower} {upper}", lambda a: Builder.band_part(x=a, lower=lower, upper=upper), meaning, x)


@move
def listed(m: Maker) -> bool:
    """Slices along the first axis, written into a list and read from it in some order, places never written too."""
    x = m.pick("fi", lambda a: 2 <= a.ndim < MAX_RANK)
    if x is None:
        return False
    count, *element = m.shape(x)
    dtype = m.name if m.kind(x) == "f" else "int32"
    begin, beyond = m.integer(0, 4), m.integer(0, 3)
    places = [int(p) for p in m.rng.permutation(count + beyond)[:count]]
    length = max(begin, *(place + 1 for place in places))
    reads = [m.integer(0, length) for _ in range(m.integer(1, 5))]
    one_by_one = m.chance(0.5)

    def emit(a: Any) -> Any:
        ls = Builder.make_list(init_length=begin, elem_shape=tuple(element), dtype=dtype)
        if not one_by_one:
            ls = Builder.list_scatter(ls=ls, indices=places, value=a)
        for i, place in enumerate(places if one_by_one else []):
            row = Builder.slice_by_index(
                x=a,
                begin=[i] + [0] * len(element),
                end=[i + 1, *element],
                squeeze_mask=[True] + [False] * len(element),
            )
            ls = Builder.list_write(ls=ls, index=place, value=row)
        return Builder.list_gather(ls=ls, indices=reads)

    def meaning(a: np.ndarray) -> np.ndarray:
        whole = np.zeros((length, *element), a.dtype)
        whole[places] = a
        return whole[reads]

    return m.add(f"listed {begin} {places} {reads} {one_by_one}", emit, meaning, x)
