"""Operations that cut values and put them together, along an axis of the tensors or over the tensors themselves.

slice_by_index(x (B, S, C), [:, 0, :])            ─►  slice_by_index(x (B, C, 1, S), [:, :, :, 0:1])
split(x (B, S, 3 · C), axis=-1)                   ─►  three chunks of the tensor's channels
slice_by_index(x (3, B, H, S, D), [0, ...])       ─►  the tensors of the first, no operation
concat((x (B, 1, C), y (B, S, C)), axis=1)        ─►  concat((x (B, C, 1, 1), y (B, C, 1, S)), axis=3)
stack((x (B, H, S, D), y (B, H, S, D)), axis=0)   ─►  the tensors of both, no operation
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from coremltools.converters.mil.mil import Operation, Var

from optimum_ane.targets.coreml.passes.to_engine_layout.elementwise import other_inputs
from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    CHANNEL,
    PARTS,
    Form,
    Piece,
    Place,
    array_of,
    free_places,
    make_form,
    volume,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting, is_float, rewrites

Cut = tuple[int, int, int]
"""First, last (not included, -1 before the first) and step."""


@rewrites("slice_by_index")
def _slice_by_index(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None or operation.begin.val is None or operation.end.val is None:
        return None
    cuts = _cuts(operation, form.shape)
    if cuts is None:
        return None
    dropped = _flags(operation.squeeze_mask, len(form.shape))
    if rewriting.is_kept(operation.x) and not any(dropped):
        return rewriting.keep(operation)
    cut = _cut(rewriting, form, cuts)
    left = [axis for axis, drop in enumerate(dropped) if not drop]
    return cut.relabelled((cut.places[axis] for axis in left), (cut.shape[axis] for axis in left))


@rewrites("slice_by_size")
def _slice_by_size(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None or operation.begin.val is None:
        return None
    if rewriting.is_kept(operation.x):
        return rewriting.keep(operation)
    extents = operation.outputs[0].shape
    begins = [int(n) % extent for n, extent in zip(operation.begin.val, form.shape, strict=True)]
    return _cut(rewriting, form, [(n, n + int(size), 1) for n, size in zip(begins, extents, strict=True)])


@rewrites("split")
def _split(rewriting: Rewriting, operation: Operation) -> list[Form] | None:
    x = operation.x
    form = rewriting.form(x)
    if form is None:
        return None
    axis = int(operation.axis.val) % x.rank
    sizes = [int(output.shape[axis]) for output in operation.outputs]
    place = form.places[axis]
    if place is None:
        return None
    if place != PARTS and form.pieces.ndim == 0 and len(set(sizes)) == 1:
        if rewriting.is_kept(x):
            rewriting.keep_chunks(operation, place, len(sizes))
        chunks = rewriting.in_chunks(form.pieces.item(), place, len(sizes))
        return [
            make_form(array_of([chunk], ()), form.places, output.shape)
            for chunk, output in zip(chunks, operation.outputs, strict=True)
        ]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    whole: list[Cut] = [(0, extent, 1) for extent in form.shape]
    return [
        _cut(rewriting, form, [*whole[:axis], (start, start + size, 1), *whole[axis + 1 :]])
        for start, size in zip(starts, sizes, strict=True)
    ]


@rewrites("gather")
def _gather(rewriting: Rewriting, operation: Operation) -> Form | None:
    """A gather of one constant index, which is how a value's first token may be taken."""
    form = rewriting.form(operation.x)
    indices = operation.indices
    if form is None or indices.val is None or volume(indices.shape) != 1:
        return None
    axis = int(operation.axis.val) % operation.x.rank
    index = int(np.asarray(indices.val).reshape(())) % form.shape[axis]
    whole: list[Cut] = [(0, extent, 1) for extent in form.shape]
    cut = _cut(rewriting, form, [*whole[:axis], (index, index + 1, 1), *whole[axis + 1 :]])
    ones = [1] * indices.rank
    return cut.relabelled(
        (*cut.places[:axis], *(None for _ in ones), *cut.places[axis + 1 :]),
        (*cut.shape[:axis], *ones, *cut.shape[axis + 1 :]),
    )


def _cuts(operation: Operation, shape: Sequence[int]) -> list[Cut] | None:
    """What a `slice_by_index` takes of each axis, by the rules of MIL's masks and negative indices."""
    rank = len(shape)
    steps = [1] * rank if operation.stride is None else [int(n) for n in operation.stride.val]
    from_start, to_end = _flags(operation.begin_mask, rank), _flags(operation.end_mask, rank)
    dropped = _flags(operation.squeeze_mask, rank)
    cuts: list[Cut] = []
    for axis, extent in enumerate(shape):
        begin, end, step = int(operation.begin.val[axis]), int(operation.end.val[axis]), steps[axis]
        begin = begin + extent if begin < 0 else begin
        end = end + extent if end < 0 else end
        if dropped[axis]:
            cuts.append((begin, begin + 1, 1))
            continue
        if step < 0:
            return None
        first = 0 if from_start[axis] else min(begin, extent)
        last = extent if to_end[axis] else min(end, extent)
        if last <= first:
            return None
        cuts.append((first, last, step))
    return cuts


def _flags(mask: Var | None, rank: int) -> list[bool]:
    return [False] * rank if mask is None else [bool(flag) for flag in mask.val]


def _cut(rewriting: Rewriting, form: Form, cuts: Sequence[Cut]) -> Form:
    """A part of a value: some of its tensors, and a slice of each."""
    shape = [len(range(*cut)) for cut in cuts]
    pieces = form.pieces[(..., *(slice(*cuts[axis]) for axis in form.spread))]
    form = make_form(pieces, form.places, [n if axis in form.spread else m for axis, (n, m) in
                                           enumerate(zip(shape, form.shape, strict=True))])  # fmt: skip
    places = {place: cuts[axis] for axis, place in enumerate(form.places) if place is not None and place != PARTS}
    partial = {place: cut for place, cut in places.items() if cut != (0, form.engine_shape[place], 1)}
    if not partial:
        return form
    if len(partial) == 1:
        ((place, (first, last, step)),) = partial.items()
        length, extent = last - first, form.engine_shape[place]
        if step == 1 and extent % length == 0 and first % length == 0 and extent // length <= 4:
            count, index = extent // length, first // length
            chunks = [rewriting.in_chunks(piece, place, count)[index] for piece in form.pieces.flat]
            return make_form(array_of(chunks, form.pieces.shape), form.places, shape)
    begin = [places[k][0] if k in partial else 0 for k in range(4)]
    end = [places[k][1] if k in partial else form.engine_shape[k] for k in range(4)]
    stride = [places[k][2] if k in partial else 1 for k in range(4)]
    masks = {"begin_mask": [k not in partial for k in range(4)], "end_mask": [k not in partial for k in range(4)]}

    def take(tensor: Var) -> Var:
        return rewriting.emit("slice_by_index", x=tensor, begin=begin, end=end, stride=stride, **masks)

    along = {piece.along for piece in form.pieces.flat if piece.count > 1}
    whole_axes = set(form.places) - set(partial)
    return map_tensors(rewriting, take, [form], form.places, shape, chunkable=along <= whole_axes)


@rewrites("concat")
def _concat(rewriting: Rewriting, operation: Operation) -> Form | None:
    values = list(operation.values)
    interleaves = operation.interleave is not None and bool(operation.interleave.val)
    if interleaves or not is_float(operation.outputs[0]) or any(each.rank == 0 for each in values):
        return None
    axis = int(operation.axis.val) % values[0].rank
    shape = tuple(int(extent) for extent in operation.outputs[0].shape)
    if all(rewriting.is_kept(each) or each.val is not None for each in values) and values[0].rank == 4:
        return rewriting.keep(operation) if any(rewriting.is_kept(each) for each in values) else None
    places = _places_of_all(rewriting, values, shape, axis)
    if places is None:
        return None
    forms = _all_entered(rewriting, values, places)
    if forms is None:
        return None
    place = places[axis]
    if place is None:  # of one value that is one element long
        return forms[0] if len(forms) == 1 else None
    if place == PARTS:
        position = [k for k, each in enumerate(places) if each == PARTS].index(axis)
        pieces = [form.pieces if values[k].shape[axis] > 1 else np.expand_dims(form.pieces, position)
                  for k, form in enumerate(forms)]  # fmt: skip
        return make_form(np.concatenate(pieces, axis=position), places, shape)

    def join(*tensors: Var) -> Var:
        return rewriting.emit("concat", values=list(tensors), axis=place)

    chunked = [piece for form in forms for piece in form.pieces.flat if piece.count > 1]
    if place == CHANNEL and PARTS in places:
        return _concat_all(rewriting, forms, places, shape)
    along = {piece.along for piece in chunked}
    is_chunkable = along <= set(places) - {place} and len(chunked) == sum(form.pieces.size for form in forms)
    return map_tensors(rewriting, join, forms, places, shape, chunkable=is_chunkable)


def _concat_all(rewriting: Rewriting, forms: Sequence[Form], places: Sequence[Place], shape: Sequence[int]) -> Form:
    """Joins the channels of each head at once: one concat of all heads, of which each is a chunk."""
    rows = list(zip(*(form.pieces.flat for form in forms), strict=True))
    distinct = list(dict.fromkeys(rows))
    if len(distinct) == 1:
        joined = [rewriting.joined(distinct[0], CHANNEL)]
    else:
        tensors = [rewriting.tensor(piece) for row in distinct for piece in row]
        whole = rewriting.emit("concat", values=tensors, axis=CHANNEL)
        joined = [Piece(whole, CHANNEL, len(distinct), index) for index in range(len(distinct))]
    pieces = [joined[distinct.index(row)] for row in rows]
    return make_form(array_of(pieces, forms[0].pieces.shape), places, shape)


@rewrites("stack")
def _stack(rewriting: Rewriting, operation: Operation) -> Form | None:
    values = list(operation.values)
    if not is_float(operation.outputs[0]) or not any(rewriting.form(each) is not None for each in values):
        return None
    rank = values[0].rank
    axis = int(operation.axis.val) % (rank + 1)
    shape = tuple(int(extent) for extent in values[0].shape)
    places = _places_of_all(rewriting, values, shape, None)
    forms = None if places is None else _all_entered(rewriting, values, places)
    if places is None or forms is None:
        return None
    position = sum(1 for each, place in enumerate(places) if each < axis and place == PARTS)
    pieces = np.stack([form.pieces for form in forms], axis=position)
    return make_form(
        pieces, [*places[:axis], PARTS, *places[axis:]], [*shape[:axis], len(values), *shape[axis:]]
    )  # fmt: skip


def _places_of_all(
    rewriting: Rewriting, values: Sequence[Var], shape: tuple[int, ...], axis: int | None
) -> tuple[Place, ...] | None:
    """Places for values that go side by side along an axis: those of the longest that has a form."""
    formed = [form for each in values if (form := rewriting.form(each)) is not None]
    if not formed:
        return None
    places = list(max(formed, key=lambda form: volume(form.shape)).places)
    for each, extent in enumerate(shape):
        if extent > 1 and places[each] is None:
            free = free_places(places)
            if each != axis or not free:
                return None
            places[each] = free[0] if PARTS not in places else PARTS
    return tuple(places)


def _all_entered(
    rewriting: Rewriting, values: Sequence[Var], places: Sequence[Place]
) -> list[Form] | None:  # fmt: skip
    forms = [rewriting.enter(each, places) for each in values]
    return [form for form in forms if form is not None] if all(form is not None for form in forms) else None


@rewrites("pad")
def _pad(rewriting: Rewriting, operation: Operation) -> Form | None:
    form = rewriting.form(operation.x)
    if form is None or operation.pad.val is None or str(operation.mode.val) != "constant":
        return None
    if rewriting.is_kept(operation.x):
        return rewriting.keep(operation)
    given = [int(n) for n in operation.pad.val]
    rank = len(form.shape)
    amounts = {rank - len(given) // 2 + k: (given[2 * k], given[2 * k + 1]) for k in range(len(given) // 2)}
    amounts = {axis: amount for axis, amount in amounts.items() if amount != (0, 0)}
    places = list(form.places)
    for axis in amounts:
        if places[axis] is None:
            free = free_places(places)
            if not free:
                return None
            places[axis] = free[0]
        if places[axis] == PARTS:
            return None
    pads = [0] * 8
    for axis, amount in amounts.items():
        place = places[axis]
        assert place is not None
        pads[2 * place : 2 * place + 2] = amount
    others = other_inputs(operation, {"x", "pad"})
    padded = {places[axis] for axis in amounts}
    along = {piece.along for piece in form.pieces.flat if piece.count > 1}
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit("pad", x=tensor, pad=pads, **others),
        [form],
        places,
        tuple(int(extent) for extent in operation.outputs[0].shape),
        chunkable=along <= set(places) - padded,
    )
