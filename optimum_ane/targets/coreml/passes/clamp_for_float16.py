"""The graph pass that brings a program's own constants into float16's range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.nn.norm import FLOAT16_EPSILON
from optimum_ane.targets.coreml.passes.scopes import scope_of

_LARGEST = 65504.0
"""The largest number of float16."""
MASK = 3e4
"""What stands for more than float16 holds. The sum of two still has a number, and e to the power of minus it is 0."""
_THRESHOLD = 2.9e4
"""What is compared with such a number: between it and all others."""
_MANY = 1e9
"""Factors from here on stand for infinity; lesser ones may be meant as they are."""

_SELECTING = {
    "add", "band_part", "concat", "expand_dims", "fill", "gather", "gather_along_axis", "gather_nd", "identity",
    "maximum", "minimum", "reshape", "scatter", "scatter_along_axis", "scatter_nd", "select", "slice_by_index",
    "slice_by_size", "slice_update", "softmax", "split", "squeeze", "stack", "sub", "tile", "transpose",
}  # fmt: skip
"""Operations of which a constant is a mask's number, or is on the way to be one."""
_EQUALITIES = ("equal", "not_equal")
_ORDERS = ("greater", "greater_equal", "less", "less_equal")
_NORMS = ("batch_norm", "instance_norm", "l2_norm", "layer_norm", "local_response_norm")
_READ_EPSILON = {"inverse": "x", "log": "x", "pow": "x", "real_div": "y", "rsqrt": "x", "sqrt": "x"}
"""By which parameter an operation reads what an epsilon keeps from being zero."""


@register_pass(namespace="optimum_ane")
class clamp_for_float16(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Brings masks and epsilons of a stock module into float16's range, before the program is cast to it.

        select(mask, x, −3.4e38) ─► add ─► softmax        −3.4e38, −inf, −1e9 become −3e4
        variance ─► add(1e−12) ─► rsqrt                   1e−12 becomes 1e−7, as in a norm

    In float16 the mask would be −inf: the sum of two infinities of another sign, 0 · inf, and the softmax of a row of
    them are NaN. The epsilon would be 0.

    Only numbers that choose are clamped: those that are added, selected, joined or moved, and factors, of flags or
    from 1e9 on. A number that divides or pads keeps its value, and a bound of a `clip` becomes float16's own. One that
    a clamped number is compared with is clamped as well, where the comparison is an order a little less, so that it
    decides what it did: an input that is infinite is still told.

    For float16 programs only: in float32 the numbers are right as they are.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _clamp_block(function, set())


@block_context_manager
def _clamp_block(block: Block, clamped: set[Var]) -> None:
    for operation in list(block.operations):
        for inner in operation.blocks:
            _clamp_block(inner, clamped)
        if operation.op_type == "const":
            continue
        if operation.op_type in _ORDERS or operation.op_type in _EQUALITIES:
            _clamp_comparison(operation, clamped)
            continue
        if operation.op_type == "clip":
            _clamp_bounds(operation)
        _clamp_numbers(operation, clamped)
        _raise_epsilon(operation)
        if any(each in clamped for _, each in _operands(operation)):
            clamped.update(operation.outputs)


def _clamp_numbers(operation: Operation, clamped: set[Var]) -> None:
    limit = _MANY if operation.op_type == "mul" and not _multiplies_flags(operation) else _LARGEST
    if operation.op_type != "mul" and operation.op_type not in _SELECTING:
        return
    for parameter, operand in list(_operands(operation)):
        values = _numbers(operand)
        if values is not None and np.any(np.abs(values) > limit):
            new = np.where(np.abs(values) > limit, np.copysign(np.float32(MASK), values), values)
            clamped.add(_replace(operation, parameter, operand, new))


def _multiplies_flags(operation: Operation) -> bool:
    """Whether an operand is one less a value: a mask's flags turned round, 1e6 · (1 − mask)."""
    return any(
        each.op is not None and each.op.op_type == "sub" and each.op.x.val is not None and np.all(each.op.x.val == 1)
        for each in (operation.x, operation.y)
    )


def _clamp_bounds(operation: Operation) -> None:
    """Lets a `clip` bound by the largest numbers of float16 what it bounded by larger ones."""
    for parameter in ("alpha", "beta"):
        operand = operation.inputs[parameter]
        values = _numbers(operand)
        if values is not None and np.any(np.abs(values) > _LARGEST):
            _replace(operation, parameter, operand, np.clip(values, -_LARGEST, _LARGEST))


def _clamp_comparison(operation: Operation, clamped: set[Var]) -> None:
    for one, other in (("x", "y"), ("y", "x")):
        operand, values = operation.inputs[one], _numbers(operation.inputs[one])
        if values is None or operation.inputs[other] not in clamped or not np.any(np.abs(values) > _LARGEST):
            continue
        stands = MASK if operation.op_type in _EQUALITIES else _THRESHOLD
        new = np.where(np.abs(values) > _LARGEST, np.copysign(np.float32(stands), values), values)
        _replace(operation, one, operand, new)


def _raise_epsilon(operation: Operation) -> None:
    if operation.op_type in _NORMS:
        epsilon = operation.inputs.get("epsilon")
        values = None if epsilon is None else _numbers(epsilon)
        if values is not None and _vanishes(values):
            _replace(operation, "epsilon", epsilon, np.full_like(values, FLOAT16_EPSILON))
    elif operation.op_type in ("add", "clip", "maximum"):
        for parameter, operand in list(_operands(operation)):
            values = _numbers(operand)
            if values is not None and _vanishes(values) and _keeps_from_zero(operation):
                _replace(operation, parameter, operand, np.full_like(values, FLOAT16_EPSILON))


def _vanishes(values: np.ndarray[Any, Any]) -> bool:
    """Whether numbers are positive, and all less than the least that is used in float16."""
    return bool(np.all((values > 0) & (values < FLOAT16_EPSILON)))


def _keeps_from_zero(operation: Operation) -> bool:
    (result,) = operation.outputs
    return any(child.inputs.get(_READ_EPSILON.get(child.op_type, "")) is result for child in result.child_ops)


def _operands(operation: Operation) -> Iterator[tuple[str, Var]]:
    """Yields what an operation reads, by the name of the parameter."""
    for parameter, given in operation.inputs.items():
        for each in given if isinstance(given, list | tuple) else [given]:
            if isinstance(each, Var):
                yield parameter, each


def _numbers(operand: Var) -> np.ndarray[Any, Any] | None:
    """The values of a float32 constant; None for anything else."""
    is_constant = operand.op is not None and operand.op.op_type == "const"
    if not is_constant or not operand.is_tensor_or_scalar_of(dtype=types.builtin_to_string(types.fp32)):
        return None
    return np.asarray(operand.val, np.float32)


def _replace(operation: Operation, parameter: str, old: Var, values: np.ndarray[Any, Any]) -> Var:
    """Gives an operation a constant of its own: others may read the old one."""
    with scope_of(old.op, operation):
        new = mb.const(val=values.astype(np.float32)[()], name=f"{old.name}_in_range", before_op=operation)
    given = operation.inputs[parameter]
    if isinstance(given, list | tuple):
        operation.set_inputs(**{parameter: [new if each is old else each for each in given]})
    else:
        operation.set_inputs(**{parameter: new})
    return new
