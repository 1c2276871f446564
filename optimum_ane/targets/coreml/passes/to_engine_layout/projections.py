"""Products with weights: 1×1 convolutions.

linear(x (B, S, C), weight (O, C), bias)  ─►  conv(x (B, C, 1, S), weight (O, C, 1, 1), bias)
matmul(x (B, S, C), y (C, O) constant)    ─►  conv(x (B, C, 1, S), weight (O, C, 1, 1))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from coremltools.converters.mil.mil import Operation, Var

from optimum_ane.nn.projection import MAX_AXIS, vocabulary_pieces
from optimum_ane.targets.coreml.passes.compressed_weights import (
    can_take_trailing_axes,
    is_constant_expression,
    with_trailing_axes,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    CHANNEL,
    PARTS,
    Form,
    Place,
    free_places,
    token_places,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.leaving import tensor_moved_out
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting, is_float, rewrites


@rewrites("linear")
def _linear(rewriting: Rewriting, operation: Operation) -> Form | Var | None:
    bias = operation.bias
    if not is_float(operation.x) or (bias is not None and bias.val is None):
        return None
    # Where a layer has no bias coremltools gives it zeros.
    has_bias = bias is not None and np.any(bias.val)
    return project(rewriting, operation, operation.x, operation.weight, bias.val if has_bias else None)


def project(
    rewriting: Rewriting, operation: Operation, x: Var, weight: Var, bias: np.ndarray | None
) -> Form | Var | None:
    """Multiplies the last axis of a value by a weight.

    Args:
        rewriting: The walk.
        operation: What is made again.
        x: (…, C).
        weight: (O, C), constant or made of constants.
        bias: (O,), or None.

    Returns:
        The form (…, O); where O is longer than the engine takes, (…, O) in the original's layout, made in parts.
    """
    if weight.rank != 2 or not is_constant_expression(weight):
        return None
    shape = tuple(operation.outputs[0].shape)
    form = channel_last(rewriting, x)
    if form is None:
        return None
    form = _joined_where_possible(rewriting, x, form)
    places = (*form.places[:-1], CHANNEL)
    if int(weight.shape[0]) > MAX_AXIS:
        return None if weight.val is None else _project_in_parts(rewriting, form, weight, bias, places, shape)
    if weight.val is None and not can_take_trailing_axes(weight):
        return None
    four = with_trailing_axes(weight, operation)

    def convolve(tensor: Var) -> Var:
        return _convolve(rewriting, tensor, four, bias)

    return map_tensors(rewriting, convolve, [form], places, shape, chunkable=not _chunks_channels(form))


def _joined_where_possible(rewriting: Rewriting, x: Var, form: Form) -> Form:
    """A form with fewer axes that are spread over tensors: one convolution takes all that fits into one tensor."""
    places = list(form.places)
    for axis in form.spread:
        free = free_places(places)
        if free:
            places[axis] = free[0]
    return rewriting.enter(x, places) or form


def _convolve(rewriting: Rewriting, tensor: Var, weight: Var, bias: np.ndarray | Var | None) -> Var:
    given = {} if bias is None else {"bias": bias}
    return rewriting.emit("conv", x=tensor, weight=weight, pad_type="valid", **given)


def _project_in_parts(
    rewriting: Rewriting,
    form: Form,
    weight: Var,
    bias: np.ndarray | None,
    places: tuple[Place, ...],
    shape: tuple[int, ...],
) -> Var | None:
    """A vocabulary: convolutions over parts of the weight, joined in the original's layout."""
    if PARTS in form.places:
        return None
    values = []
    for start, stop in vocabulary_pieces(int(weight.shape[0])):
        part = rewriting.const(weight.val[start:stop, :, None, None])
        cut = None if bias is None else bias[start:stop]
        tensor = _convolve(rewriting, rewriting.tensor(form.pieces.item()), part, cut)
        values.append(tensor_moved_out(rewriting, tensor, places, (*shape[:-1], stop - start)))
    return rewriting.emit("concat", values=values, axis=len(shape) - 1)


def channel_last(rewriting: Rewriting, x: Var) -> Form | None:
    """The form of a value with its last axis on the channels, entered or moved there where it is elsewhere.

    Where the value is in the engine's layout already, its other axes stay where they are if they can.
    """
    form = rewriting.form(x)
    if form is not None:
        for places in _with_channel_last(form):
            moved = rewriting.enter(x, places)
            if moved is not None:
                return moved
    default = token_places(tuple(int(extent) for extent in x.shape))
    return None if default is None else rewriting.enter(x, default)


def _with_channel_last(form: Form) -> Iterator[tuple[Place, ...]]:
    """Places with the last axis on the channels: the axis that is there now takes the last one's place, if any is."""
    last = form.places[-1]
    if last == CHANNEL or (form.shape[-1] == 1 and CHANNEL not in form.places):
        yield form.places
    elif form.shape[-1] > 1 and last != PARTS:
        yield (*(last if place == CHANNEL else place for place in form.places[:-1]), CHANNEL)


def _chunks_channels(form: Form) -> bool:
    """Whether a form's tensors are chunks along the channels, which the projection of each sums over."""
    return any(piece.count > 1 and piece.along == CHANNEL for piece in form.pieces.flat)
