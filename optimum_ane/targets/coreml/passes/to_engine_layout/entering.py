"""From the original's layout into the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from coremltools.converters.mil.mil import Var

from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    PARTS,
    Form,
    Piece,
    Place,
    filled,
    free_places,
    make_form,
    single,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.placing import placed

if TYPE_CHECKING:
    from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting


def enter_original(rewriting: Rewriting, var: Var, places: tuple[Place, ...]) -> Form | None:
    """The form of a value that is in the original's layout, constants by themselves.

    Args:
        rewriting: The walk.
        var: Has no form.
        places: For each axis; None for those of length 1, and for no other.

    Returns:
        None where an axis of the engine's tensors is lacking on the way.
    """
    shape = tuple(var.shape)
    spread_axes = [axis for axis, place in enumerate(places) if place == PARTS]
    if var.val is not None:
        return _enter_constant(rewriting, var, places)
    free = free_places(places)
    if len(spread_axes) > len(free):
        return None
    temporary = list(places)
    for axis, place in zip(spread_axes, free, strict=False):
        temporary[axis] = place
    form = single(_moved_in(rewriting, rewriting.original(var), temporary), temporary, shape)
    return placed(rewriting, form, places)


def _enter_constant(rewriting: Rewriting, var: Var, places: tuple[Place, ...]) -> Form | None:
    shape, value = tuple(var.shape), np.asarray(var.val)
    spread_axes = [axis for axis, place in enumerate(places) if place == PARTS]
    kept = {place: axis for axis, place in enumerate(places) if place is not None and place != PARTS}
    order = spread_axes + [kept[place] for place in sorted(kept)]
    ones = [axis for axis in range(len(shape)) if axis not in order]
    moved = value.transpose([*order, *ones])
    engine = [1, 1, 1, 1]
    for place, axis in kept.items():
        engine[place] = shape[axis]
    moved = moved.reshape([*(shape[axis] for axis in spread_axes), *engine])
    pieces = np.empty(moved.shape[: len(spread_axes)], dtype=object)
    for index in np.ndindex(pieces.shape):
        pieces[index] = Piece(rewriting.const(np.ascontiguousarray(moved[index])))
    return make_form(pieces, places, shape)


def _moved_in(rewriting: Rewriting, var: Var, places: Sequence[Place]) -> Var:
    """An original of rank 4 or less, or with enough axes of length 1, as one tensor with its axes in places."""
    shape = [int(extent) for extent in var.shape]
    engine = [1, 1, 1, 1]
    for axis, place in enumerate(places):
        if place is not None:
            engine[place] = shape[axis]
    if len(shape) > 4:
        shape = [extent for extent in shape if extent != 1]
        places = [place for place in places if place is not None]
        var = rewriting.reshape(var, shape)
    perm = _order(places, len(shape))
    if perm != sorted(perm) and [axis for axis in perm if shape[axis] > 1] != sorted(
        axis for axis in perm if shape[axis] > 1
    ):
        var = rewriting.emit("transpose", x=var, perm=perm)
    return rewriting.reshape(var, engine)


def _order(places: Sequence[Place], rank: int) -> list[int]:
    """The axes of an original in the order of their places; those of length 1 fill the places between."""
    engine: list[int | None] = [None] * 4
    for axis, place in enumerate(places):
        if place is not None:
            engine[place] = axis
    if rank == 4:
        return filled(engine)
    ones = [axis for axis in range(rank) if places[axis] is None]
    kept = [axis for axis in engine if axis is not None]
    return ones + kept
