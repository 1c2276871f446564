"""The graph pass that moves a value once where it was moved several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_MOVES = frozenset(("reshape", "expand_dims", "squeeze", "transpose"))
_MOST_AXES = 4
"""Of a value between two moves: the engine takes no more without conditions."""


@register_pass(namespace="optimum_ane")
class merge_moves(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces a chain of reshapes and transposes by the shortest one that puts every element in the same place.

        x (1, 576, 1, 64) ─► squeeze ─► transpose ─► reshape (1, 64, 9, 64) ─► transpose (1, 9, 64, 64)

    becomes

        x (1, 576, 1, 64) ─► reshape (1, 9, 64, 64) ─► transpose (1, 9, 64, 64)

    Transposes of axes of length 1 are reshapes, and a chain that ends as it began is nothing. coremltools merges
    neighbours of one kind only. Chains of which a value between has other readers are cut there.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _merge_in_block(function)


@block_context_manager
def _merge_in_block(block: Block) -> None:
    for operation in list(block.operations):
        if operation.op_type in _MOVES and not _goes_on(block, operation):
            _merge(block, operation)


def _goes_on(block: Block, operation: Operation) -> bool:
    result = operation.outputs[0]
    children = result.child_ops
    return len(children) == 1 and children[0].op_type in _MOVES and result not in block.outputs


def _merge(block: Block, last: Operation) -> None:
    chain = [last]
    while (before := chain[0].x.op) is not None and before.op_type in _MOVES and _goes_on(block, before):
        chain.insert(0, before)
    source, result = chain[0].x, last.outputs[0]
    order = _order(chain)
    if order is None:
        return
    steps = _shortest(order)
    if steps is None or len(steps) >= len(chain) or (not steps and result in block.outputs):
        return
    made: Var = source
    with scope_of(last), mb.set_before_op(last):
        for index, (op_type, numbers) in enumerate(steps):
            name = result.name if index == len(steps) - 1 else f"{result.name}_{op_type}"
            if op_type == "transpose":
                made = mb.transpose(x=made, perm=numbers, name=name)
            else:
                made = mb.reshape(x=made, shape=numbers, name=name)
    block.replace_uses_of_var_after_op(anchor_op=last, old_var=result, new_var=made, force_replace=True)
    block.remove_ops(chain[::-1])


@dataclass(eq=False)
class _Run:
    """Elements of an axis that stay side by side; two once a reshape parts them.

    Attributes:
        length: How many.
        parts: What it was parted into, outer first.
    """

    length: int
    parts: list[_Run] = field(default_factory=list)

    def leaves(self) -> list[_Run]:
        """What it consists of in the end."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]


@dataclass(frozen=True)
class _Order:
    """Where a chain puts what.

    Attributes:
        before: For each axis of the source which runs it holds, outer first, by number; runs of length 1 are none.
        after: The same of the result.
        lengths: Of the runs.
    """

    before: list[list[int]]
    after: list[list[int]]
    lengths: list[int]


def _order(chain: Sequence[Operation]) -> _Order | None:
    """What a chain does; None where a reshape parts elements unevenly."""
    shape = [int(extent) for extent in chain[0].x.shape]
    first = [[_Run(extent)] if extent > 1 else [] for extent in shape]
    axes = [list(axis) for axis in first]
    for operation in chain:
        axes = [[leaf for run in axis for leaf in run.leaves()] for axis in axes]
        if operation.op_type == "transpose":
            axes = [axes[int(axis)] for axis in operation.perm.val]
            continue
        regrouped = _regrouped([run for axis in axes for run in axis], [int(n) for n in operation.outputs[0].shape])
        if regrouped is None:
            return None
        axes = regrouped
    after = [[leaf for run in axis for leaf in run.leaves()] for axis in axes]
    before = [[leaf for run in axis for leaf in run.leaves()] for axis in first]
    leaves = [leaf for axis in before for leaf in axis]
    number = {id(leaf): index for index, leaf in enumerate(leaves)}
    return _Order(
        [[number[id(leaf)] for leaf in axis] for axis in before],
        [[number[id(leaf)] for leaf in axis] for axis in after],
        [leaf.length for leaf in leaves],
    )


def _regrouped(runs: list[_Run], shape: Sequence[int]) -> list[list[_Run]] | None:
    axes: list[list[_Run]] = []
    left = [*runs]
    for extent in shape:
        axis: list[_Run] = []
        while extent > 1:
            run = left.pop(0)
            if run.length > extent:
                if run.length % extent:
                    return None
                run.parts = [_Run(extent), _Run(run.length // extent)]
                run, rest = run.parts
                left.insert(0, rest)
            if extent % run.length:
                return None
            axis.append(run)
            extent //= run.length
        axes.append(axis)
    return axes


Step = tuple[str, list[int]]


def _shortest(order: _Order) -> list[Step] | None:
    """The fewest reshapes and transposes from the source to the result; None where values between have many axes."""
    before, after = _shape(order, order.before), _shape(order, order.after)
    moved = [run for axis in order.after for run in axis]
    if moved == sorted(moved):
        return [] if before == after else [("reshape", after)]
    ways = []
    whole = _whole_axes(order.before, moved)
    if whole is not None:
        perm = _with_ones(whole, before, after)
        transposed = [before[axis] for axis in perm]
        ways.append([("transpose", perm)] + ([] if transposed == after else [("reshape", after)]))
    whole = _whole_axes(order.after, sorted(moved))
    if whole is not None:
        # The result's axes in the order in which the source has them, those of length 1 where they may stay.
        inverse = _with_ones(whole, after, before)
        ways.append([("reshape", [after[axis] for axis in inverse]), ("transpose", _inverted(inverse))])
    groups = _groups(moved)
    if len(groups) <= _MOST_AXES:
        ordered = sorted(groups)
        ones = [1] * (_MOST_AXES - len(groups))
        lengths = [prod(order.lengths[run] for run in group) for group in ordered]
        perm = [*range(len(ones)), *(len(ones) + ordered.index(group) for group in groups)]
        ways.append([("reshape", [*ones, *lengths]), ("transpose", perm), ("reshape", after)])
    ways = [way for way in ways if all(len(numbers) <= max(_MOST_AXES, len(after)) for _, numbers in way)]
    return min(ways, key=len, default=None)


def _shape(order: _Order, axes: Sequence[Sequence[int]]) -> list[int]:
    return [prod(order.lengths[run] for run in axis) for axis in axes]


def _whole_axes(axes: Sequence[Sequence[int]], moved: Sequence[int]) -> list[int] | None:
    """The axes longer than 1 in the order in which their runs come, if those of each come one after the other."""
    found: list[int] = []
    position = 0
    starts = {axis[0]: index for index, axis in enumerate(axes) if axis}
    while position < len(moved):
        index = starts.get(moved[position])
        if index is None or list(moved[position : position + len(axes[index])]) != list(axes[index]):
            return None
        found.append(index)
        position += len(axes[index])
    return found


def _with_ones(whole: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[int]:
    """A permutation of all axes; those of length 1 go where the other shape has one, the others to the front."""
    ones = [axis for axis, extent in enumerate(before) if extent == 1]
    moving, perm = list(whole), []
    surplus = len(ones) - sum(1 for extent in after if extent == 1)
    perm, ones = ones[: max(0, surplus)], ones[max(0, surplus) :]
    for extent in after:
        if extent == 1 and ones:
            perm.append(ones.pop(0))
        elif moving:
            perm.append(moving.pop(0))
    return [*perm, *ones, *moving]


def _inverted(perm: Sequence[int]) -> list[int]:
    return [list(perm).index(axis) for axis in range(len(perm))]


def _groups(moved: Sequence[int]) -> list[list[int]]:
    """Runs that come one after the other before and behind."""
    groups: list[list[int]] = []
    for run in moved:
        if groups and groups[-1][-1] == run - 1:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups
