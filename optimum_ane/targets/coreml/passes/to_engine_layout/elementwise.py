"""Operations that work on each element by itself.

    add(x (B, S, C), y (C,))        ─►  add(x (B, C, 1, S), y (1, C, 1, 1))
    mul(x (B, H, S, D), y ())       ─►  mul(x (B, H · D, 1, S), y ())                before the split into heads
    add(x (B, H, Q, K), y (1, 1, Q, K))  ─►  for each head  add(x (B, K, 1, Q), y (1, K, 1, Q))

Operands take the places of the longest of those that are in the engine's layout already; where none is, the operation
stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Operation, Var, types

from optimum_ane.targets.coreml.passes.to_engine_layout.form import PARTS, Form, Place, free_places, volume
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.products import scaled_product
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Result, Rewriting, is_float, rewrites

_UNARY = (
    "abs",
    "acos",
    "asin",
    "atan",
    "atanh",
    "ceil",
    "clamped_relu",
    "clip",
    "cos",
    "cosh",
    "elu",
    "erf",
    "exp",
    "exp2",
    "floor",
    "gelu",
    "identity",
    "inverse",
    "leaky_relu",
    "linear_activation",
    "log",
    "relu",
    "relu6",
    "round",
    "rsqrt",
    "scaled_tanh",
    "sigmoid",
    "sigmoid_hard",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "threshold",
    "thresholded_relu",
)
_BINARY = ("add", "sub", "mul", "real_div", "maximum", "minimum", "pow", "floor_div", "mod")


@rewrites(*_UNARY)
def _unary(rewriting: Rewriting, operation: Operation) -> Result:
    form = rewriting.form(operation.x)
    if form is None or not is_float(operation.x):
        return None
    if rewriting.is_kept(operation.x):
        return rewriting.keep(operation)
    others = other_inputs(operation, {"x"})
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit(operation.op_type, x=tensor, **others),
        [form],
        form.places,
        form.shape,
    )


@rewrites("cast")
def _cast(rewriting: Rewriting, operation: Operation) -> Result:
    if not (is_float(operation.x) and is_float(operation.outputs[0])):
        return None
    return _unary(rewriting, operation)


@rewrites(*_BINARY)
def _binary(rewriting: Rewriting, operation: Operation) -> Result:
    if not is_float(operation.outputs[0]):
        return None
    scaled = _scaled(rewriting, operation) if operation.op_type in ("mul", "real_div") else None
    return scaled or _broadcast(rewriting, operation, ("x", "y"))


def _scaled(rewriting: Rewriting, operation: Operation) -> Form | None:
    """Attention scores times a number: the queries times the number."""
    x, y = operation.x, operation.y
    if operation.op_type == "mul" and y.val is None:
        x, y = y, x
    if y.val is None or volume(y.shape) != 1 or x.val is not None or x.rank < y.rank:
        return None
    number = _as_scalar(y)
    return scaled_product(
        rewriting, operation, x, lambda tensor: rewriting.emit(operation.op_type, x=tensor, y=number)
    )


@rewrites("select")
def _select(rewriting: Rewriting, operation: Operation) -> Result:
    if not is_float(operation.outputs[0]) or not types.is_bool(operation.cond.dtype):
        return None
    return _broadcast(rewriting, operation, ("cond", "a", "b"))


def _broadcast(rewriting: Rewriting, operation: Operation, names: Sequence[str]) -> Form | None:
    """Makes an operation of several operands on tensors whose axes are in the same places."""
    operands = [getattr(operation, name) for name in names]
    shape = tuple(int(extent) for extent in operation.outputs[0].shape)
    places = _common_places(rewriting, operands, shape)
    if places is None:
        return None
    if all(rewriting.is_kept(each) or each.val is not None for each in operands if each.rank):
        full = [each for each in operands if rewriting.is_kept(each)]
        if all(each.rank == 4 or each.rank == 0 for each in operands) and full:
            return rewriting.keep(operation)
    forms, scalars = {}, {}
    for name, operand in zip(names, operands, strict=True):
        if volume(operand.shape) == 1 and (operand.rank == 0 or operand.val is not None):
            scalars[name] = operand if operand.rank == 0 else _as_scalar(operand)
            continue
        form = rewriting.enter(operand, places[len(places) - operand.rank :])
        if form is None:
            return None
        forms[name] = form

    def combine(*tensors: Var) -> Var:
        return rewriting.emit(operation.op_type, **dict(zip(forms, tensors, strict=True)), **scalars)

    return map_tensors(rewriting, combine, list(forms.values()), places, shape)


def _as_scalar(constant: Var) -> np.generic:
    return np.asarray(constant.val).reshape(-1)[0]


def _common_places(
    rewriting: Rewriting, operands: Sequence[Var], shape: tuple[int, ...]
) -> tuple[Place, ...] | None:  # fmt: skip
    """Places for the axes of a result, those of the longest operand that has a form; None if none has."""
    formed = [form for operand in operands if (form := rewriting.form(operand)) is not None and volume(form.shape) > 1]
    if not formed:
        return None
    formed.sort(key=lambda form: volume(form.shape), reverse=True)
    places: list[Place] = [None] * len(shape)
    for form in formed:
        for axis, place in enumerate(form.places, start=len(shape) - len(form.places)):
            # PARTS may be there twice; any other place only once.
            if places[axis] is None and place is not None and (place not in places or place == PARTS):
                places[axis] = place
    for axis, extent in enumerate(shape):
        if extent > 1 and places[axis] is None:
            free = free_places(places)
            if not free:
                return None
            places[axis] = free[0]
    return tuple(places)


def other_inputs(operation: Operation, names: Collection[str]) -> dict[str, Any]:
    """What an operation reads beside certain operands."""
    return {name: given for name, given in operation.inputs.items() if name not in names and given is not None}
