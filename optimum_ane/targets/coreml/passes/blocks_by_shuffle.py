"""The graph pass that makes transposed convolutions whose blocks do not overlap of a convolution and a shuffle."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of


@register_pass(namespace="optimum_ane")
class blocks_by_shuffle(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces transposed convolutions whose kernel is as large as their step.

        (1, C, H, W) ─► conv_transpose(kernel r × r, strides r) ─► (1, D, r · H, r · W)

    becomes, with the same products and sums,

        (1, C, H, W) ─► conv(1 × 1, r² · D channels) ─► pixel_shuffle(r) ─► (1, D, r · H, r · W)

    Transposed convolutions run on the engine in some forms only; both parts of this one do. Source: the rules
    `conv-transposed` and `channels-and-space` of `optimum_ane/analysis/data/residency_rules.yaml`.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _rewrite_block(function)


@block_context_manager
def _rewrite_block(block: Block) -> None:
    for operation in list(block.operations):
        if operation.op_type == "conv_transpose" and _does_not_overlap(operation):
            _rewrite(block, operation)


def _does_not_overlap(operation: Operation) -> bool:
    weight = operation.weight.val
    if weight is None or weight.ndim != 4 or operation.outputs[0] in operation.enclosing_block.outputs:
        return False
    (height, width), strides = weight.shape[2:], [int(each) for each in operation.strides.val]
    result, given = operation.outputs[0].shape, operation.x.shape
    return (
        height == width
        and strides == [height, width]
        and int(operation.groups.val) == 1
        and all(int(each) == 1 for each in operation.dilations.val)
        # Neither padding nor a shape of the output that cuts or adds.
        and all(out == height * into for out, into in zip(result[2:], given[2:], strict=True))
    )


def _rewrite(block: Block, operation: Operation) -> None:
    weight = operation.weight.val
    channels, outputs, size, _ = weight.shape
    with scope_of(operation), mb.set_before_op(operation):
        old = operation.outputs[0]
        # pixel_shuffle reads channel d · r² + row · r + column.
        blocks = np.ascontiguousarray(weight.transpose(1, 2, 3, 0)).reshape(outputs * size * size, channels, 1, 1)
        bias = {} if operation.bias is None else {"bias": np.repeat(operation.bias.val, size * size)}
        values = mb.conv(x=operation.x, weight=blocks, **bias, name=f"{old.name}_blocks")
        new = mb.pixel_shuffle(x=values, upscale_factor=size, name=f"{old.name}_shuffled")
    block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=new)
    block.remove_ops([operation])
