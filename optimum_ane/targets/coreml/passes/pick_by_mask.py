"""The graph pass that picks a token by a mask of zeros and a one."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_JOINING = ("stack", "concat")


@register_pass(namespace="optimum_ane")
class pick_by_mask(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces the look-up of one token by a product and a sum, for the engine has no look-ups.

        gather_nd(x (1, S, C), [[0, argmax(ids)]])  ─►  reduce_sum(x · (argmax(ids) == [0, …, S − 1]))

    CLIP's texts are read so, at the token that ends them. The mask depends on the words alone and is made on the CPU
    before the engine begins, where a look-up would cut its work in two. On iOS one was seen to give zeros
    (`gather-by-coordinates` of the residency rules).
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _pick_in_block(function)


@block_context_manager
def _pick_in_block(block: Block) -> None:
    for operation in list(block.operations):
        for inner in operation.blocks:
            _pick_in_block(inner)
        place = _place(operation) if operation.op_type == "gather_nd" else None
        if place is None:
            continue
        with scope_of(operation), mb.set_before_op(operation):
            result = _picked(operation, place)
        block.replace_uses_of_var_after_op(
            anchor_op=operation, old_var=operation.outputs[0], new_var=result, force_replace=True
        )
        block.remove_ops([operation])


def _place(operation: Operation) -> Var | None:
    """The number of the token, (1,), never negative; None where it is something else that is looked up."""
    x, indices = operation.x, operation.indices
    is_one_row = x.rank == 3 and x.shape[0] == 1 and types.is_float(x.dtype) and tuple(indices.shape) == (1, 2)
    if not is_one_row or x.val is not None or (operation.batch_dims is not None and operation.batch_dims.val):
        return None
    while indices.op is not None and indices.op.op_type in ("cast", "identity"):
        indices = indices.op.x
    joined = indices.op
    if joined is None or joined.op_type not in _JOINING or len(joined.values) != 2:
        return None
    row, place = joined.values
    if row.val is None or np.any(row.val):
        return None
    maker = place.op
    while maker is not None and maker.op_type in ("cast", "identity", "expand_dims", "reshape"):
        maker = maker.x.op
    return place if maker is not None and maker.op_type == "reduce_argmax" else None


def _picked(operation: Operation, place: Var) -> Var:
    x = operation.x
    length = int(x.shape[1])
    dtype = types.nptype_from_builtin(x.dtype)
    number = mb.reshape(x=mb.cast(x=place, dtype="int32"), shape=[1, 1, 1])
    is_there = mb.equal(x=number, y=np.arange(length, dtype=np.int32).reshape(1, length, 1))
    mask = mb.cast(x=is_there, dtype="fp16" if dtype is np.float16 else "fp32")
    return mb.reduce_sum(x=mb.mul(x=x, y=mask), axes=[1], keep_dims=False, name=operation.outputs[0].name)
