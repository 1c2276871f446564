"""The graph pass that hides padding by a product with a mask of zeros and ones."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_FINITE = ("linear", "conv", "layer_norm", "add", "gelu", "relu", "silu")
"""What makes hidden states. Of others, a softmax say, the choice may be there to hide NaN, which a product keeps."""


@register_pass(namespace="optimum_ane")
class mask_by_product(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces a choice between hidden states and zeros by a product, for the engine does not choose.

        select(mask, x, 0)  ─►  x · cast(mask)
        select(mask, 0, x)  ─►  x · cast(not mask)

    Models of sounds hide padding so, `hidden_states[~mask] = 0`. The mask is made on the CPU before the engine begins,
    where the choice would cut its work in two (`mask-by-choice` of the residency rules).
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _mask_in_block(function)


@block_context_manager
def _mask_in_block(block: Block) -> None:
    for operation in list(block.operations):
        for inner in operation.blocks:
            _mask_in_block(inner)
        kept = _kept(operation) if operation.op_type == "select" else None
        if kept is None:
            continue
        with scope_of(operation), mb.set_before_op(operation):
            result = _product(operation, kept)
        block.replace_uses_of_var_after_op(
            anchor_op=operation, old_var=operation.outputs[0], new_var=result, force_replace=True
        )
        block.remove_ops([operation])


def _kept(operation: Operation) -> Var | None:
    """What stays where the other is 0; None where the choice is another."""
    a, b = operation.a, operation.b
    if operation.cond.val is not None or not types.is_float(operation.outputs[0].dtype):
        return None
    kept, hidden = (b, a) if _is_zero(a) else (a, b)
    if not _is_zero(hidden) or kept.op is None or kept.op.op_type not in _FINITE:
        return None
    is_whole = tuple(kept.shape) == tuple(operation.outputs[0].shape)
    return kept if is_whole and kept.val is None else None


def _is_zero(value: Var) -> bool:
    return value.val is not None and not np.any(value.val)


def _product(operation: Operation, kept: Var) -> Var:
    is_kept = _mask(operation.cond, is_negated=kept is not operation.a)
    dtype = "fp16" if types.nptype_from_builtin(kept.dtype) is np.float16 else "fp32"
    return mb.mul(x=kept, y=mb.cast(x=is_kept, dtype=dtype), name=operation.outputs[0].name)


def _mask(mask: Var, is_negated: bool) -> Var:
    """A mask or its opposite, of the first bool that leads to it: negations of negations are common."""
    found, value, negated = mask, mask, is_negated
    while value.op is not None and value.op.op_type in ("cast", "identity", "reshape", "logical_not"):
        if tuple(value.op.x.shape) != tuple(mask.shape):
            break
        negated ^= value.op.op_type == "logical_not"
        value = value.op.x
        if types.is_bool(value.dtype):
            found, is_negated = value, negated
    return mb.logical_not(x=found) if is_negated else found
