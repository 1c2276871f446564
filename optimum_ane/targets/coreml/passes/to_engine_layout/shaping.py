"""Operations that only move values: most of them give the same tensors new labels.

transpose, expand_dims, squeeze           new labels, no operation
reshape (B, S, H · D) ─► (B, S, H, D)     the tensor's channels are read in H chunks: a split, where it is needed
reshape (B, S, H, D) ─► (B, S, H · D)     a concat over the heads
reshape (B, C, h, w) ─► (B, C, h · w)     a reshape of (B, C, h, w) to (B, C, 1, h · w), and back
tile (B, H, 1, S, D) by n on an axis of 1 the same tensors named n times: keys that heads share
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from coremltools.converters.mil.mil import Operation, Var

from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    BATCH,
    CHANNEL,
    HEIGHT,
    PARTS,
    WIDTH,
    Form,
    Place,
    make_form,
    volume,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.placing import placed
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import MOST_PIECES, Rewriting, rewrites

_GROUPED = ("reduce_mean", "reduce_sum", "layer_norm")


@rewrites("transpose")
def _transpose(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None:
        return None
    perm = [int(axis) % operation.x.rank for axis in operation.perm.val]
    order = [form.spread.index(axis) for axis in perm if axis in form.spread]
    return make_form(
        form.pieces.transpose(order), (form.places[axis] for axis in perm), (form.shape[axis] for axis in perm)
    )


@rewrites("expand_dims", "squeeze", "reshape")
def _reshape(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None or _is_for_groups(operation.outputs[0]):
        return None
    return reshaped(rewriting, form, tuple(int(extent) for extent in operation.outputs[0].shape))


def _is_for_groups(result: Var) -> bool:
    """Whether a norm over groups of channels reads a value: over several axes at once.

    The groups are left side by side in the original's layout, which for an image is the engine's; spread over tensors
    they would be as many norms.
    """
    return any(
        child.op_type in _GROUPED and child.axes is not None and len(child.axes.val) > 1 for child in result.child_ops
    )


def reshaped(rewriting: Rewriting, form: Form, shape: tuple[int, ...]) -> Form | None:
    """A form's value in another shape; None where that is more than splitting and joining axes."""
    groups = matched_axes(form.shape, shape)
    if groups is None:
        return None
    # What is merged leaves axes of length 1, and the axes keep their numbers; it comes first, for it frees places.
    for old, _ in groups:
        merged = _merged(rewriting, form, old)
        if merged is None:
            return None
        form = merged
    # What is divided gets new axes, so the last comes first.
    for old, new in reversed(groups):
        divided = _divided(rewriting, form, old[0], [shape[axis] for axis in new])
        if divided is None:
            return None
        form = divided
    return _with_ones(form, shape)


def matched_axes(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of one shape make up which of another: the shortest runs whose products are equal.

    Axes of length 1 are left out. Returns None where the shapes do not have the same number of elements.

        (1, 16, 64), (1, 16, 4, 16)  ─►  [([1], [1]), ([2], [2, 3])]
    """
    if volume(old) != volume(new):
        return None
    left, right = ([axis for axis, extent in enumerate(shape) if extent != 1] for shape in (old, new))
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        group: tuple[list[int], list[int]] = ([left.pop(0)], [right.pop(0)])
        while (a := volume(old[axis] for axis in group[0])) != (b := volume(new[axis] for axis in group[1])):
            if a < b:
                group[0].append(left.pop(0))
            else:
                group[1].append(right.pop(0))
        groups.append(group)
    return groups


def _with_ones(form: Form, shape: tuple[int, ...]) -> Form:
    """The form with the axes of length 1 that a shape has; all others are the same, in order."""
    kept = iter(place for place, extent in zip(form.places, form.shape, strict=True) if extent != 1)
    return make_form(form.pieces, [None if extent == 1 else next(kept) for extent in shape], shape)


def _merged(rewriting: Rewriting, form: Form, axes: Sequence[int]) -> Form | None:
    """Makes one axis of several, which stands where the first stood; the others become axes of length 1."""
    while len(axes) > 1:
        outer, inner = axes[-2], axes[-1]
        merged = _merge_two(rewriting, form, outer, inner)
        if merged is None:
            return None
        form, axes = merged, axes[:-1]
    return form


def _merge_two(rewriting: Rewriting, form: Form, outer: int, inner: int) -> Form | None:
    shape = list(form.shape)
    shape[outer], shape[inner] = shape[outer] * shape[inner], 1
    places = list(form.places)
    first, second = places[outer], places[inner]
    if first == PARTS and second == PARTS:
        a, b = form.spread.index(outer), form.spread.index(inner)
        if b != a + 1:
            return None
        extents = list(form.pieces.shape)
        extents[a : b + 1] = [extents[a] * extents[b]]
        return make_form(form.pieces.reshape([*extents[: a + 1], *extents[a + 1 :]]), _set(places, inner, None), shape)
    if first == PARTS and second is not None:
        return _join_chunks(rewriting, form, outer, inner, shape)
    if first is None or second is None or PARTS in (first, second):
        return None
    return _merge_places(rewriting, form, outer, inner, shape)


def _join_chunks(rewriting: Rewriting, form: Form, outer: int, inner: int, shape: list[int]) -> Form | None:
    """Joins the tensors of heads along what each of them holds: one whole again, or a concat."""
    place = form.places[inner]
    assert place is not None
    position = form.spread.index(outer)
    pieces = np.moveaxis(form.pieces, position, -1)
    joined = np.empty(pieces.shape[:-1], dtype=object)
    for index in np.ndindex(joined.shape):
        joined[index] = rewriting.joined(list(pieces[index]), place)
    places = list(form.places)
    places[outer], places[inner] = place, None
    return make_form(joined, places, shape)


def _merge_places(
    rewriting: Rewriting, form: Form, outer: int, inner: int, shape: list[int]
) -> Form | None:  # fmt: skip
    """Merges two axes of the tensors: neighbours by a reshape, others after a transpose."""
    first, second = form.places[outer], form.places[inner]
    if CHANNEL in (first, second):
        # The channels hold what is summed over; positions among them are better moved in the original's layout.
        return None
    # The two go side by side, in order, with nothing but axes of length 1 between them.
    usable = [place for place in range(4) if place not in form.places or place in (first, second)]
    pairs = [(a, b) for a in usable for b in usable if a < b and all(c in usable for c in range(a, b))]
    if not pairs:
        return None
    a, b = min(pairs, key=lambda pair: ((pair[0] != first) + (pair[1] != second), -pair[1]))
    places = _set(_set(form.places, outer, a), inner, b)
    side_by_side = placed(rewriting, form, places)
    if side_by_side is None:
        return None
    engine = list(side_by_side.engine_shape)
    total = engine[a] * engine[b]
    engine[a] = engine[b] = 1
    engine[b] = total
    result = _set(_set(places, outer, b), inner, None)
    return _reshaped_tensors(rewriting, side_by_side, engine, result, shape)


def _divided(rewriting: Rewriting, form: Form, axis: int, lengths: Sequence[int]) -> Form | None:
    """Makes several axes of one, which stand where it stood."""
    while len(lengths) > 1:
        outer, inner = lengths[0], volume(lengths[1:])
        divided = _divide_in_two(rewriting, form, axis, outer, inner)
        if divided is None:
            return None
        form, axis, lengths = divided, axis + 1, lengths[1:]
    return form


def _divide_in_two(rewriting: Rewriting, form: Form, axis: int, outer: int, inner: int) -> Form | None:
    place = form.places[axis]
    shape = (*form.shape[:axis], outer, inner, *form.shape[axis + 1 :])
    if place == PARTS:
        position = form.spread.index(axis)
        extents = list(form.pieces.shape)
        extents[position : position + 1] = [outer, inner]
        places: list[Place] = [*form.places[:axis], PARTS, PARTS, *form.places[axis + 1 :]]
        return make_form(form.pieces.reshape(extents), places, shape)
    assert place is not None
    if place == CHANNEL and outer * form.pieces.size <= MOST_PIECES:
        return _read_in_chunks(rewriting, form, axis, outer, inner)
    others = [each for k, each in enumerate(form.places) if k != axis]
    usable = [each for each in range(4) if each not in others]
    # An image's rows and columns first, or blocks of a sequence.
    pairs = [(HEIGHT, WIDTH), (BATCH, place), (HEIGHT, place), (BATCH, HEIGHT), (CHANNEL, place)]
    for first, second in pairs:
        low, high = min(place, first), max(place, second)
        if first < second and all(each in usable for each in range(low, high + 1)):
            engine = list(form.engine_shape)
            engine[place] = 1
            engine[first], engine[second] = outer, inner
            places = [*form.places[:axis], first, second, *form.places[axis + 1 :]]
            return _reshaped_tensors(rewriting, form, engine, places, shape)
    return None


def _reshaped_tensors(
    rewriting: Rewriting, form: Form, engine: Sequence[int], places: Sequence[Place], shape: Sequence[int]
) -> Form:
    return map_tensors(
        rewriting, lambda tensor: rewriting.reshape(tensor, engine), [form], places, shape, chunkable=False
    )


def _read_in_chunks(rewriting: Rewriting, form: Form, axis: int, outer: int, inner: int) -> Form:
    """Divides the channels among tensors: the heads of an attention."""
    places: list[Place] = [*form.places[:axis], PARTS, CHANNEL, *form.places[axis + 1 :]]
    shape = (*form.shape[:axis], outer, inner, *form.shape[axis + 1 :])
    pieces = np.empty((*form.pieces.shape, outer), dtype=object)
    for index in np.ndindex(form.pieces.shape):
        pieces[index] = rewriting.in_chunks(form.pieces[index], CHANNEL, outer)
    position = sum(1 for each in form.spread if each < axis)
    return make_form(np.moveaxis(pieces, -1, position), places, shape)


@rewrites("tile")
def _tile(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None:
        return None
    reps = [int(n) for n in operation.reps.val]
    shape = tuple(int(extent) for extent in operation.outputs[0].shape)
    repeated = [axis for axis, n in enumerate(reps) if n > 1]
    if len(reps) != len(form.shape) or any(form.shape[axis] != 1 for axis in repeated):
        return None
    count = form.pieces.size * volume(reps)
    if count > MOST_PIECES:
        return None
    places, pieces = list(form.places), form.pieces
    for axis in repeated:
        position = sum(1 for each, place in enumerate(places) if each < axis and place == PARTS)
        places[axis] = PARTS
        pieces = np.repeat(np.expand_dims(pieces, position), reps[axis], axis=position)
    return make_form(pieces, places, shape)


def _set(places: Sequence[Place], axis: int, place: Place) -> list[Place]:
    changed = list(places)
    changed[axis] = place
    return changed
