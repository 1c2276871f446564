"""The graph pass that writes iOS 18's attention out as products and a softmax."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_MASKED = -3e4
"""What is added where a mask of booleans closes: as good as minus infinity after a softmax, and within float16."""


@register_pass(namespace="optimum_ane")
class decompose_attention(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Takes an attention apart, so that the layout pass can put its heads side by side.

        scaled_dot_product_attention(q, k, v, mask)

    becomes, with E the extent of the last axis of q,

        matmul(softmax(matmul(q · E^-½, k, transposed) + mask), v)

    The engine has no attention of its own, and takes the whole one as unsure. Source of the meaning: coremltools'
    definition, `mil/ops/defs/iOS18/transformers.py`.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _decompose_in_block(function)


@block_context_manager
def _decompose_in_block(block: Block) -> None:
    for operation in list(block.operations):
        for inner in operation.blocks:
            _decompose_in_block(inner)
        if operation.op_type == "scaled_dot_product_attention":
            with scope_of(operation), mb.set_before_op(operation):
                result = _written_out(operation)
            block.replace_uses_of_var_after_op(
                anchor_op=operation, old_var=operation.outputs[0], new_var=result, force_replace=True
            )
            block.remove_ops([operation])


def _written_out(operation: Operation) -> Var:
    query, key, value, mask = operation.query, operation.key, operation.value, operation.attn_mask
    dtype = types.nptype_from_builtin(query.dtype)
    scaled = mb.mul(x=query, y=dtype(query.shape[-1] ** -0.5))
    scores = mb.matmul(x=scaled, y=key, transpose_x=False, transpose_y=True)
    if mask is not None:
        scores = mb.add(x=scores, y=_added(mask, dtype))
    return mb.matmul(x=mb.softmax(x=scores, axis=-1), y=value, name=operation.outputs[0].name)


def _added(mask: Var, dtype: type[np.generic]) -> Var | np.ndarray:
    """What a mask adds to the scores."""
    if mask.dtype != types.bool:
        return mask
    if mask.val is not None:
        return np.where(mask.val, dtype(0), dtype(_MASKED)).astype(dtype)
    # A select between two numbers would do, but coremltools takes its result for one number as well.
    is_open = mb.cast(x=mask, dtype=types.builtin_to_string(types.numpy_type_to_builtin_type(dtype)))
    return mb.mul(x=mb.sub(x=dtype(1), y=is_open), y=dtype(_MASKED))
