"""The graph pass that takes a factor into the projection that a value comes from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_MOVES = frozenset(("reshape", "transpose", "expand_dims", "squeeze", "split", "concat", "slice_by_index"))
_SOURCES = {"conv": ("weight", "bias"), "linear": ("weight", "bias"), "layer_norm": ("gamma", "beta")}
"""What a factor can be taken into, and the parameters that take it."""
_LEAST = 2.0**-6
"""Weights times a factor below this, or above its reciprocal, are no good numbers of float16."""


@register_pass(namespace="optimum_ane")
class fold_scale_backwards(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Multiplies weights in place of what is computed with them: the scale of a decoder's queries.

        x ─► conv(W) ─► heads ─► rotary positions ─► mul(d^-½) ─►

    becomes

        x ─► conv(W · d^-½) ─► heads ─► rotary positions ─►

    All that lies between must be linear and lead nowhere else: moves, sums of such values, and products with others.
    coremltools knows only a factor that follows the projection at once.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _fold_in_block(function)


@block_context_manager
def _fold_in_block(block: Block) -> None:
    for operation in list(block.operations):
        if operation.op_type == "mul" and operation.outputs[0] not in block.outputs:
            factor = operation.y.val if operation.x.val is None else None
            if factor is not None and np.size(factor) == 1:
                number = np.float32(np.reshape(factor, -1)[0])
                if _LEAST <= number <= 1 / _LEAST:
                    _fold(block, operation, number)


def _fold(block: Block, scale: Operation, factor: np.float32) -> None:
    inside: set[Operation] = {scale}
    sources: list[Operation] = []
    if not _collect(scale.x, inside, sources) or not sources:
        return
    between = {result for each in inside - {scale} for result in each.outputs}
    if any(child not in inside for value in between for child in value.child_ops) or between & {*block.outputs}:
        return
    products = [each for each in inside - {scale} if each.op_type == "mul"]
    if any(each.x.op in inside and each.y.op in inside for each in products):
        return  # of two values that would both have the factor
    for source in sources:
        for name in _SOURCES[source.op_type]:
            old = source.inputs.get(name)
            if old is not None:
                with scope_of(source):
                    new = mb.const(val=old.val * factor, name=f"{old.name}_scaled", before_op=source)
                source.set_inputs(**{name: new})
                if not old.child_ops:
                    kept = old.name
                    old.name, new.name, new.op.name = f"{kept}_unscaled", kept, kept
    block.replace_uses_of_var_after_op(anchor_op=scale, old_var=scale.outputs[0], new_var=scale.x, force_replace=True)
    block.remove_ops([scale])


def _collect(value: Var, inside: set[Operation], sources: list[Operation]) -> bool:
    """Gathers the operations that a value is a linear function of, back to those that can take the factor."""
    operation = value.op
    if operation is None:
        return False
    if operation in inside:
        return True
    inside.add(operation)
    if operation.op_type in _SOURCES:
        sources.append(operation)
        return _can_take(operation)
    if operation.op_type == "mul":
        # One of the two must come from a source; the other is whatever it is.
        before, before_sources = set(inside), list(sources)
        for operand, other in ((operation.x, operation.y), (operation.y, operation.x)):
            if operand is not other and operand.val is None and _collect(operand, inside, sources):
                return True
            inside.clear()
            inside |= before
            sources[:] = before_sources
        return False
    if operation.op_type in ("add", "sub"):
        return all(_collect(each, inside, sources) for each in (operation.x, operation.y))
    return operation.op_type in _MOVES and all(_collect(each, inside, sources) for each in _moved(operation))


def _moved(operation: Operation) -> Iterator[Var]:
    yield from operation.values if operation.op_type == "concat" else [operation.x]


def _can_take(operation: Operation) -> bool:
    """Whether an operation's parameters are constants of its own."""
    parameters = [operation.inputs.get(name) for name in _SOURCES[operation.op_type]]
    given = [each for each in parameters if each is not None]
    return parameters[0] is not None and all(
        each.op is not None and each.op.op_type == "const" and _is_float(each) and _is_own(each) for each in given
    )


def _is_float(value: Var) -> bool:
    return np.issubdtype(value.val.dtype, np.floating)


def _is_own(value: Var) -> bool:
    # A bias of zeros may be read by many, and stays what it is.
    return len(value.child_ops) == 1 or not np.any(value.val)
