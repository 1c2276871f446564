"""The graph pass that takes the sign of a rotation into the table of sines."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of


@register_pass(namespace="optimum_ane")
class fold_rotation_sign(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Multiplies the sines by −1 once, where every layer multiplies half of its queries and keys.

        x ─► second half ─► mul(−1) ─┬─► concat ─► mul(sines) ─►
        x ─► first half ─────────────┘

    becomes

        x ─► second half ─┬─► concat ─► mul(sines with the sign) ─►
        x ─► first half ──┘

    The numbers are the same to the last bit. All that is multiplied by the same sines reads the same product.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _fold_in_block(function)


@block_context_manager
def _fold_in_block(block: Block) -> None:
    signed: dict[tuple[Var, int], Var] = {}
    for operation in list(block.operations):
        if operation.op_type != "mul":
            continue
        for rotated, sines in ((operation.x, operation.y), (operation.y, operation.x)):
            negated = _negated_half(block, rotated, sines)
            if negated is not None:
                _fold(block, operation, rotated.op, sines, negated, signed)
                break


def _negated_half(block: Block, rotated: Var, sines: Var) -> Operation | None:
    """The operation that negates the first of the halves that a value is joined of, if the sines can take the sign."""
    concat = rotated.op
    if concat is None or concat.op_type != "concat" or len(rotated.child_ops) != 1 or rotated in block.outputs:
        return None
    if len(concat.values) != 2 or concat.axis.val not in (-1, rotated.rank - 1):
        return None
    negated = concat.values[0].op
    is_only_read_here = len(concat.values[0].child_ops) == 1 and concat.values[0] not in block.outputs
    if negated is None or negated.op_type != "mul" or not is_only_read_here or sines.val is not None:
        return None
    has_sign = negated.y.val is not None and np.all(negated.y.val == -1) and negated.x.shape == concat.values[0].shape
    return negated if has_sign and sines.shape[-1:] == rotated.shape[-1:] else None


def _fold(
    block: Block,
    product: Operation,
    concat: Operation,
    sines: Var,
    negated: Operation,
    signed: dict[tuple[Var, int], Var],
) -> None:
    half = int(negated.x.shape[-1])
    if (sines, half) not in signed:
        sign = np.ones(int(sines.shape[-1]), np.float32)
        sign[:half] = -1
        with scope_of(product):
            signed[sines, half] = mb.mul(x=sines, y=sign, before_op=concat, name=f"{sines.name}_signed")
    with scope_of(concat), mb.set_before_op(concat):
        joined = mb.concat(values=[negated.x, concat.values[1]], axis=concat.axis.val)
    with scope_of(product), mb.set_before_op(product):
        made = mb.mul(x=joined, y=signed[sines, half], name=product.outputs[0].name)
    block.replace_uses_of_var_after_op(anchor_op=product, old_var=product.outputs[0], new_var=made, force_replace=True)
    block.remove_ops([product, concat, negated])
