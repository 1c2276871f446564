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

    A compressed table is shared as well. What else reads the table would keep it: then nothing is changed.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _share_in_block(function)


@block_context_manager
def _share_in_block(block: Block) -> None:
    weights = [op.weight for op in block.operations if op.op_type == "conv" and op.weight.shape[2:] == (1, 1)]
    tables = {op.x: None for op in block.operations if op.op_type == "gather" and _is_table(op.x)}
    for table in tables:
        readers = list(table.child_ops)
        if table in block.outputs or not all(_looks_up(reader, table, block) for reader in readers):
            continue
        twins = {weight for weight in weights if weight.shape[:2] == table.shape and _is_same(table, weight)}
        if twins:
            _share(block, table, readers, twins)


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
        one, other = np.asarray(first.val), np.asarray(second.val)
        return one.size == other.size and bool(np.array_equal(one.reshape(-1), other.reshape(-1)))
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
    for twin in twins:
        block.replace_uses_of_var_after_op(anchor_op=twin.op, old_var=twin, new_var=shared, force_replace=True)
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
