"""The graph pass that takes a norm's weight and bias into it."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass


@register_pass(namespace="optimum_ane")
class fold_layer_norm_affine(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Takes the weight and the bias after a layer norm over the channels into it.

    coremltools fuses the norm, but leaves `* weight + bias` over axis 1 outside, where it becomes a batch norm:
    two operations and two more roundings for each norm.

        x ─► layer_norm(axes=[1]) ─► mul(weight) ─► add(bias) ─►      weight, bias: constants (1, C, 1, 1)

    becomes

        x ─► layer_norm(axes=[1], gamma=weight, beta=bias) ─►
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _fold_in_block(function)


@block_context_manager
def _fold_in_block(block: Block) -> None:
    for operation in list(block.operations):
        if operation.enclosing_block is not None and operation.op_type == "layer_norm":
            _fold(block, operation)


def _fold(block: Block, norm: Operation) -> None:
    if norm.gamma is not None or norm.beta is not None or list(norm.axes.val) != [1] or norm.x.rank != 4:
        return
    multiply, weight = _only_child(block, norm, "mul")
    if multiply is None or weight is None:
        return
    add, bias = _only_child(block, multiply, "add")
    if add is None or bias is None:
        return
    folded = mb.layer_norm(
        x=norm.x, axes=[1], gamma=weight, beta=bias, epsilon=norm.epsilon, name=add.outputs[0].name, before_op=add
    )
    if block.try_replace_uses_of_var_after_op(anchor_op=add, old_var=add.outputs[0], new_var=folded):
        block.remove_ops([add, multiply, norm])


def _only_child(block: Block, operation: Operation, op_type: str) -> tuple[Operation | None, np.ndarray | None]:
    """The one user of an operation's result if it is of a type, and its other operand if that is a channel vector."""
    result: Var = operation.outputs[0]
    if result in block.outputs or len(result.child_ops) != 1 or result.child_ops[0].op_type != op_type:
        return None, None
    child = result.child_ops[0]
    other = child.y if child.x is result else child.x
    channels = result.shape[1]
    if other.val is None or np.shape(other.val) != (1, channels, 1, 1):
        return child, None
    return child, other.val.reshape(channels)
