"""The graph pass that keeps one copy of a table which words are looked up in and scored with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.compressed_weights import can_take_trailing_axes, with_trailing_axes
from optimum_ane.targets.coreml.passes.scopes import scope_of

_MOST_AXES = 5
"""Of a value in Core ML."""


@register_pass(namespace="optimum_ane")
class share_tied_tables(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Looks words up in the weight of the convolution that scores them, where both hold the same numbers.

    Tied embeddings are one (V, C) array in the stock layout, which a gather and a linear layer read. The convolution
    in the linear layer's place wants (V, C, 1, 1), and coremltools writes a weight once for each shape.

        ids ─► gather(table (V, C)) ─►        conv(weight (V, C, 1, 1)) ─►

    becomes

        ids ─► gather(weight (V, C, 1, 1)) ─► reshape ─►        conv(weight) ─►

    A compressed table is shared as well. What else reads the table would keep it: then nothing is changed. A gather
    from a table that has the convolution's shape already gets the very same constant. Where scores are multiplied by
    a number afterwards, which a later pass would fold into a copy of the weight, what is scored is multiplied first.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _share_in_block(function)


@block_context_manager
def _share_in_block(block: Block) -> None:
    convolutions = [op for op in block.operations if op.op_type == "conv" and op.weight.shape[2:] == (1, 1)]
    weights = [op.weight for op in convolutions]
    looked_up = {op.x: None for op in block.operations if op.op_type == "gather"}
    for table in looked_up:
        if table.val is not None and table.shape[2:] == (1, 1):
            twins = {each for each in weights if each is not table and each.shape == table.shape}
            _replace(block, table, {each for each in twins if _is_same(table, each)})
    for table in (each for each in looked_up if _is_table(each)):
        readers = list(table.child_ops)
        if table in block.outputs or not all(_looks_up(reader, table, block) for reader in readers):
            continue
        twins = {weight for weight in weights if weight.shape[:2] == table.shape and _is_same(table, weight)}
        if twins:
            _share(block, table, readers, twins)
    for convolution in convolutions:
        if any(reader.op_type == "gather" for reader in convolution.weight.child_ops):
            _scale_first(block, convolution)


def _is_table(value: Var) -> bool:
    return value.op is not None and value.rank == 2 and can_take_trailing_axes(value)


def _looks_up(reader: Operation, table: Var, block: Block) -> bool:
    if reader.op_type != "gather" or reader.x is not table or reader.enclosing_block is not block:
        return False
    batch = reader.inputs.get("batch_dims")
    return reader.axis.val == 0 and (batch is None or batch.val == 0)


def _is_same(first: Var, second: Var) -> bool:
    """Whether two weights hold the same numbers in the same order, stored alike, whatever their shapes."""
    if first.dtype != second.dtype or (first.val is None) != (second.val is None):
        return False
    if first.val is not None:
        one, other = np.asarray(first.val).reshape(-1), np.asarray(second.val).reshape(-1)
        return one.size == other.size and bool(np.array_equal(one[:1], other[:1]) and np.array_equal(one, other))
    if first.op.op_type != second.op.op_type or first.op.outputs.index(first) != second.op.outputs.index(second):
        return False
    pairs = [*_stored(first.op, second.op)]
    return all((one is None) == (other is None) and (one is None or _is_same(one, other)) for one, other in pairs)


def _stored(first: Operation, second: Operation) -> Iterator[tuple[Var | None, Var | None]]:
    """Yields what two compressed weights are made of, the shape of iOS 16's forms left out."""
    for name, value in first.inputs.items():
        if name != "shape":
            yield value, second.inputs.get(name)


def _share(block: Block, table: Var, readers: list[Operation], twins: set[Var]) -> None:
    first = next(operation for operation in block.operations if operation in readers)
    shared = with_trailing_axes(table, first)
    _replace(block, shared, twins)
    for reader in readers:
        result = reader.outputs[0]
        with scope_of(reader), mb.set_before_op(reader):
            indices = reader.indices
            if indices.rank + 3 > _MOST_AXES:
                indices = mb.reshape(x=indices, shape=np.array([-1], np.int32))
            rows = mb.gather(**{**reader.inputs, "x": shared, "indices": indices})
            same = mb.reshape(x=rows, shape=np.array(result.shape, np.int32), name=result.name)
        block.replace_uses_of_var_after_op(anchor_op=reader, old_var=result, new_var=same, force_replace=True)
    block.remove_ops(readers)


def _replace(block: Block, shared: Var, twins: set[Var]) -> None:
    """Lets what reads other copies of a weight read this one."""
    for twin in twins:
        block.replace_uses_of_var_after_op(anchor_op=twin.op, old_var=twin, new_var=shared, force_replace=True)


def _scale_first(block: Block, convolution: Operation) -> None:
    """Multiplies what a convolution reads, and its bias, where its result is multiplied or divided by a number."""
    scores = convolution.outputs[0]
    scale = scores.child_ops[0] if len(scores.child_ops) == 1 and scores not in block.outputs else None
    if scale is None or scale.op_type not in ("mul", "real_div"):
        return
    number = scale.y if scale.x is scores else scale.x
    if number.val is None or np.size(number.val) != 1 or (scale.op_type == "real_div" and scale.x is not scores):
        return
    factor = np.asarray(number.val).reshape(-1)[0]
    result = scale.outputs[0]
    with scope_of(scale), mb.set_before_op(convolution):
        scaled = (
            mb.mul(x=convolution.x, y=factor) if scale.op_type == "mul" else mb.real_div(x=convolution.x, y=factor)
        )
        given = {**convolution.inputs, "x": scaled}
        if convolution.bias is not None:
            bias = convolution.bias.val
            given["bias"] = bias * factor if scale.op_type == "mul" else bias / factor
        same = mb.conv(**given, name=result.name)
    block.replace_uses_of_var_after_op(anchor_op=scale, old_var=result, new_var=same, force_replace=True)
    block.remove_ops([scale, convolution])
