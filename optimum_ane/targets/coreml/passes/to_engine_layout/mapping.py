"""One operation on all tensors of a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from coremltools.converters.mil.mil import Var

from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    PARTS,
    Form,
    Piece,
    Pieces,
    Place,
    array_of,
    coarser,
    make_form,
)

if TYPE_CHECKING:
    from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting


def map_tensors(
    rewriting: Rewriting,
    function: Callable[..., Var],
    forms: Sequence[Form],
    places: Sequence[Place],
    shape: Sequence[int],
    chunkable: bool = True,
) -> Form:
    """Makes an operation on the tensors of forms whose axes are in the same places.

    It is made once for what is several times among the tensors, and once before the split where all of a form's
    tensors are chunks of one.

    Args:
        rewriting: The walk.
        function: Makes the operation of one tensor of each form, and returns its result.
        forms: Broadcast against each other over the axes that are spread.
        places: Of the result's axes.
        shape: Of the result.
        chunkable: Whether the operation may be made before the split: it works on each element by itself, or does
            not touch the axis of the split.
    """
    if len(forms) == 1:
        arrays: Sequence[Pieces] = [forms[0].pieces]
    else:
        arrays = np.broadcast_arrays(*(_aligned(form, places) for form in forms))
    if chunkable and (chunked := _before_split(rewriting, function, arrays)) is not None:
        return make_form(chunked, places, shape)
    made: dict[tuple[Piece, ...], Piece] = {}
    pieces = np.empty(arrays[0].shape, dtype=object)
    for index in np.ndindex(pieces.shape):
        row = tuple(array[index] for array in arrays)
        if row not in made:
            made[row] = Piece(function(*(rewriting.tensor(piece) for piece in row)))
        pieces[index] = made[row]
    return make_form(pieces, places, shape)


def _before_split(rewriting: Rewriting, function: Callable[..., Var], arrays: Sequence[Pieces]) -> Pieces | None:
    """Makes the operation on what is split; None where it has to be made on each chunk.

    Each operand either has chunks of one tensor, the same ones, or is one tensor for all: of length 1 along the axis
    of the split, or as long as a chunk, and then as many of it stand one behind the other.
    """
    chunked = [array for array in arrays if array.flat[0].count > 1]
    if not chunked:
        return None
    first = chunked[0].flat[0]
    indices = [piece.index for piece in chunked[0].flat]
    run = _run(first, indices)
    if run is None:
        return None
    low, length = run
    extent = int(first.var.shape[first.along]) // first.count
    values = []
    for array in arrays:
        pieces = list(array.flat)
        one = pieces[0]
        if one.count == 1:
            if any(piece != one for piece in pieces) or int(one.var.shape[first.along]) not in (1, extent):
                return None
        elif pieces != [replace(first, var=one.var, index=index) for index in indices]:
            return None
        elif int(one.var.shape[first.along]) != extent * one.count:
            return None  # a number for each head beside the channels of each
        values.append(one)
    tensors = []
    for one in values:
        chunk = coarser(replace(one, index=low), length) if one.count > 1 else None
        if chunk is not None:
            tensors.append(rewriting.tensor(chunk))
        elif int(one.var.shape[first.along]) == 1:
            tensors.append(one.var)
        else:
            tensors.append(rewriting.repeated(one.var, first.along, length))
    result = function(*tensors)
    return array_of([Piece(result, first.along, length, index - low) for index in indices], arrays[0].shape)


def _run(first: Piece, indices: Sequence[int]) -> tuple[int, int] | None:
    """The run of chunks that an operation is made on: those that are used, or all if at least half of them are.

    Returns:
        The first chunk's index and how many there are; None where it is better made on each chunk.
    """
    low, length = min(indices), len(set(indices))
    if length == 1:
        return None
    is_run = max(indices) - low + 1 == length
    if is_run and coarser(replace(first, index=low), length) is not None:
        return low, length
    return (0, first.count) if 2 * length >= first.count else None


def _aligned(form: Form, places: Sequence[Place]) -> Pieces:
    """A form's tensors with an axis for each that the result spreads, aligned from behind."""
    pieces = form.pieces
    axes = [axis for axis, place in enumerate(places) if place == PARTS]
    offset = len(places) - len(form.places)
    for position, axis in enumerate(axes):
        own = axis - offset
        if own < 0 or form.places[own] != PARTS:
            pieces = np.expand_dims(pieces, position)
    return pieces
