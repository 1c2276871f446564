"""From the engine's layout into the original's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coremltools.converters.mil.mil import Var

from optimum_ane.targets.coreml.passes.to_engine_layout.form import PARTS, Form, Pieces, Place, filled, free_places
from optimum_ane.targets.coreml.passes.to_engine_layout.placing import placed

if TYPE_CHECKING:
    from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting


def moved_out(rewriting: Rewriting, form: Form) -> Var:
    """A value in the original's layout."""
    spread_axes = form.spread
    free = free_places(form.places)
    if len(spread_axes) <= len(free):
        places = list(form.places)
        for axis, place in zip(spread_axes, free, strict=False):
            places[axis] = place
        joined = placed(rewriting, form, places)
        assert joined is not None
        return tensor_moved_out(rewriting, rewriting.tensor(joined.pieces.item()), places, form.shape)
    return _joined(rewriting, form, form.pieces, list(form.shape), [*spread_axes])


def _joined(rewriting: Rewriting, form: Form, pieces: Pieces, shape: list[int], spread_axes: list[int]) -> Var:
    """Joins tensors in the original's layout, where an engine tensor has no axis to join them along."""
    if not spread_axes:
        places = [None if place == PARTS else place for place in form.places]
        return tensor_moved_out(rewriting, rewriting.tensor(pieces.item()), places, shape)
    axis, rest = spread_axes[0], spread_axes[1:]
    inner = [*shape]
    inner[axis] = 1
    values = [_joined(rewriting, form, pieces[index, ...], inner, rest) for index in range(shape[axis])]
    return rewriting.emit("concat", values=values, axis=axis)


def tensor_moved_out(rewriting: Rewriting, var: Var, places: Sequence[Place], shape: Sequence[int]) -> Var:
    """One tensor in the original's layout: of a shape, its axes in these places of the tensor."""
    kept = [axis for axis, place in enumerate(places) if place is not None]
    order = [places[axis] for axis in kept]
    shape = [int(extent) for extent in shape]
    if len(kept) < 4 and len(shape) < 4:
        engine = [int(extent) for extent in var.shape]
        # An original with few axes is squeezed first, so that what is transposed is small and of its rank.
        ones = [place for place in range(4) if place not in order]
        extra = len(shape) - len(kept)  # axes of length 1 that the original has as well
        dropped = ones[extra:] if extra else ones
        remaining = [place for place in range(4) if place not in dropped]
        if dropped:
            var = rewriting.emit("squeeze", x=var, axes=dropped)
        perm = filled([None if place is None else remaining.index(place) for place in places])
        squeezed = [engine[place] for place in remaining]
    else:
        squeezed = [int(extent) for extent in var.shape]
        ranked = list(places) if len(shape) == 4 else [place for place in places if place is not None]
        ranked += [None] * (4 - len(ranked))
        perm = filled(ranked)
    moving = [axis for axis in perm if squeezed[axis] > 1]
    if moving != sorted(moving):
        var = rewriting.emit("transpose", x=var, perm=perm)
    return rewriting.reshape(var, shape)
