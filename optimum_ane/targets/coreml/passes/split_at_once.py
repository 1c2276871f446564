"""The graph pass that makes one split of slices that are together the whole of a value."""

from __future__ import annotations

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of


@register_pass(namespace="optimum_ane")
class split_at_once(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces slices of the last axis that stand side by side and leave nothing out.

        x ─┬─► slice_by_index([..., :32]) ─►
           └─► slice_by_index([..., 32:]) ─►

    becomes

        x ─► split(axis=-1) ─┬─►
                             └─►
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _split_in_block(function)


@block_context_manager
def _split_in_block(block: Block) -> None:
    slices: dict[Var, list[tuple[int, int, Operation]]] = {}
    for operation in block.operations:
        if operation.op_type == "slice_by_index" and (part := _part(operation)) is not None:
            slices.setdefault(operation.x, []).append((*part, operation))
    # Slices of slices first: a split takes the place of what they read.
    for x, parts in reversed(slices.items()):
        parts.sort(key=lambda part: part[:2])
        ends = [0, *(end for _, end, _ in parts)]
        if len(parts) > 1 and [start for start, _, _ in parts] == ends[:-1] and ends[-1] == int(x.shape[-1]):
            _split(block, x, [end - start for start, end, _ in parts], [operation for _, _, operation in parts])


def _part(operation: Operation) -> tuple[int, int] | None:
    """Where a slice of the last axis begins and ends; None for slices of others, and steps."""
    x, result = operation.x, operation.outputs[0]
    if x.rank != result.rank or x.shape[:-1] != result.shape[:-1] or operation.begin.val is None:
        return None
    begin, end = operation.begin.val, operation.end.val
    stride, from_first, to_last, squeezed = (
        None if each is None else each.val
        for each in (operation.stride, operation.begin_mask, operation.end_mask, operation.squeeze_mask)
    )
    if end is None or (stride is not None and stride[-1] != 1) or (squeezed is not None and any(squeezed)):
        return None
    length = int(x.shape[-1])
    start = 0 if from_first is not None and from_first[-1] else int(begin[-1]) % length
    stop = length if to_last is not None and to_last[-1] else int(end[-1])
    stop = stop + length if stop < 0 else min(stop, length)
    # An axis of length 1 may be anything else that is called a slice of it.
    return (start, stop) if stop - start == int(result.shape[-1]) else None


def _split(block: Block, x: Var, sizes: list[int], slices: list[Operation]) -> None:
    first = next(operation for operation in block.operations if operation in slices)
    with scope_of(first), mb.set_before_op(first):
        name = f"{first.outputs[0].name}_split"
        equal = {"num_splits": len(sizes)} if len(set(sizes)) == 1 else {"split_sizes": sizes}
        parts = mb.split(x=x, axis=x.rank - 1, **equal, name=name)
    for operation, part in zip(slices, parts, strict=True):
        old = operation.outputs[0]
        if old not in block.outputs:
            block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=part, force_replace=True)
            block.remove_ops([operation])
