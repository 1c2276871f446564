"""From one form into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    PARTS,
    Form,
    Piece,
    Place,
    filled,
    free_places,
    make_form,
)

if TYPE_CHECKING:
    from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting


def placed(rewriting: Rewriting, form: Form, places: Sequence[Place]) -> Form | None:
    """The same value with its axes in other places.

    Axes that are no longer spread are joined, then the tensors are transposed, then split along those that are to
    be spread. A tensor that is read in chunks is transposed whole.

    Args:
        rewriting: The walk.
        form: What is to be placed.
        places: For each axis of the original.

    Returns:
        None where an axis of the engine's tensors is lacking on the way.
    """
    wanted = tuple(None if extent == 1 else place for place, extent in zip(places, form.shape, strict=True))
    for axis in form.spread:
        if wanted[axis] != PARTS:
            joined = _join_axis(rewriting, form, axis, wanted[axis])
            if joined is None:
                return None
            form = joined
    splitting = [axis for axis in range(len(wanted)) if wanted[axis] == PARTS and form.places[axis] != PARTS]
    between = list(wanted)
    free = free_places(wanted)
    if len(splitting) > len(free):
        return None
    for axis, place in zip(splitting, free, strict=False):
        # An axis stays where it is if nothing else comes there, and is split there.
        here = form.places[axis]
        between[axis] = here if here in free else place
        free = [each for each in free if each != between[axis]]
    form = _permute(rewriting, form, between)
    for axis in splitting:
        form = _split_axis(rewriting, form, axis)
    return form


def _join_axis(rewriting: Rewriting, form: Form, axis: int, wanted: Place) -> Form | None:
    """Joins the tensors along one of the original's axes that is spread over them."""
    free = free_places(form.places)
    if not free:
        return None
    place = wanted if wanted in free else free[0]
    position = form.spread.index(axis)
    places = list(form.places)
    places[axis] = place
    pieces = np.moveaxis(form.pieces, position, -1)
    joined = np.empty(pieces.shape[:-1], dtype=object)
    for index in np.ndindex(joined.shape):
        joined[index] = rewriting.joined(list(pieces[index]), place)
    return make_form(joined, places, form.shape)


def _permute(rewriting: Rewriting, form: Form, places: Sequence[Place]) -> Form:
    """Transposes the tensors; which axes are spread stays as it is."""
    wanted = tuple(places)
    if wanted == form.places:
        return form
    source: list[int | None] = [None] * 4
    for old, new in zip(form.places, wanted, strict=True):
        if new is not None and new != PARTS:
            source[new] = old
    pieces = np.empty(form.pieces.shape, dtype=object)
    for index in np.ndindex(pieces.shape):
        pieces[index] = _transposed_piece(rewriting, form.pieces[index], source)
    return make_form(pieces, wanted, form.shape)


def _transposed_piece(rewriting: Rewriting, piece: Piece, source: Sequence[int | None]) -> Piece:
    if piece.count > 1 and piece.along not in source:
        # Chunks of one element along an axis that has no place in the value.
        source = list(source)
        source[source.index(None)] = piece.along
    perm = filled(source)
    return replace(piece, var=rewriting.transposed(piece.var, perm), along=perm.index(piece.along))


def _split_axis(rewriting: Rewriting, form: Form, axis: int) -> Form:
    """Spreads an axis over as many tensors as it is long, split where it is."""
    along, count = form.places[axis], form.shape[axis]
    assert along is not None
    position = sum(1 for each in form.spread if each < axis)
    pieces = np.empty((*form.pieces.shape, count), dtype=object)
    for index in np.ndindex(form.pieces.shape):
        pieces[index] = rewriting.in_chunks(form.pieces[index], along, count)
    places = list(form.places)
    places[axis] = PARTS
    return make_form(np.moveaxis(pieces, -1, position), places, form.shape)
