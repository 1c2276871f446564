"""Norms, softmaxes and reductions: over the channels of a tensor, or its width.

layer_norm(x (B, S, C), axes=[-1], gamma, beta)   ─►  layer_norm(x (B, C, 1, S), axes=[1], gamma, beta)
softmax(x (B, H, Q, K), axis=-1)                  ─►  for each head  softmax(x (B, K, 1, Q), axis=1)
reduce_mean(x (B, S, C), axes=[1])                ─►  reduce_mean(x (B, C, 1, S), axes=[3], keep_dims=True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coremltools.converters.mil.mil import Operation, Var

from optimum_ane.targets.coreml.passes.to_engine_layout.elementwise import other_inputs
from optimum_ane.targets.coreml.passes.to_engine_layout.form import PARTS, Form, Place, free_places
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.projections import channel_last
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting, is_float, rewrites

_REDUCTIONS = (
    "reduce_mean",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_sum_square",
    "reduce_log_sum_exp",
    "reduce_log_sum",
    "reduce_prod",
)


@rewrites("layer_norm")
def _layer_norm(rewriting: Rewriting, operation: Operation) -> Form | None:
    x = operation.x
    axes = _axes(operation.axes.val, x.rank)
    form = rewriting.form(x)
    if rewriting.is_kept(x) and (axes == [1] or len(axes) > 1):
        return rewriting.keep(operation)
    if axes != [x.rank - 1]:
        return None
    form = channel_last(rewriting, x)
    if form is None:
        return None
    others = other_inputs(operation, {"x", "axes"})
    return _over(rewriting, form, axes, lambda tensor: rewriting.emit("layer_norm", x=tensor, axes=[1], **others))


@rewrites("softmax")
def _softmax(rewriting: Rewriting, operation: Operation) -> Form | None:
    x = operation.x
    form = rewriting.form(x)
    if form is None:
        return None
    (axis,) = _axes([operation.axis.val], x.rank)
    if rewriting.is_kept(x):
        return rewriting.keep(operation)
    place = form.places[axis]
    if place is None:  # of one element, which is the softmax of any axis of length 1
        place = next(iter(free_places(form.places)), None)
    if place is None or place == PARTS:
        return None
    return _over(rewriting, form, [axis], lambda tensor: rewriting.emit("softmax", x=tensor, axis=place))


@rewrites(*_REDUCTIONS)
def _reduce(rewriting: Rewriting, operation: Operation) -> Form | None:
    x = operation.x
    form = rewriting.form(x)
    if form is None or not is_float(x):
        return None
    axes = list(range(x.rank)) if operation.axes is None else _axes(operation.axes.val, x.rank)
    keeps = bool(operation.keep_dims.val)
    if rewriting.is_kept(x) and keeps:
        return rewriting.keep(operation)
    places = sorted(place for axis in axes if (place := form.places[axis]) is not None)
    if not places or PARTS in places:
        return None
    reduced = _over(
        rewriting,
        form,
        axes,
        lambda tensor: rewriting.emit(operation.op_type, x=tensor, axes=places, keep_dims=True),
        reduces=True,
    )
    if keeps:
        return reduced
    left = [axis for axis in range(x.rank) if axis not in axes]
    return reduced.relabelled((reduced.places[axis] for axis in left), (reduced.shape[axis] for axis in left))


def _over(
    rewriting: Rewriting,
    form: Form,
    axes: Sequence[int],
    function: Callable[[Var], Var],
    reduces: bool = False,
) -> Form:
    """Makes an operation over some axes on each tensor, or before a split along another one."""
    touched = {form.places[axis] for axis in axes}
    chunkable = not any(piece.count > 1 and piece.along in touched for piece in form.pieces.flat)
    # A chunk of one element along its split has that axis in no place.
    chunkable = chunkable and not any(piece.count > 1 and piece.along not in form.places for piece in form.pieces.flat)
    shape = [1 if reduces and axis in axes else extent for axis, extent in enumerate(form.shape)]
    places: list[Place] = [None if shape[axis] == 1 else place for axis, place in enumerate(form.places)]
    return map_tensors(rewriting, function, [form], places, shape, chunkable=chunkable)


def _axes(axes: Sequence[int], rank: int) -> list[int]:
    return sorted(int(axis) % rank for axis in axes)
