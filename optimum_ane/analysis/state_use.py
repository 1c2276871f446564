"""How a function uses its states: what is written into each, and who reads what was there before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimum_ane.analysis.operations import STATE_WRITES, Operation, Program, Tensor

_READ = "read_state"
_PART_WRITE = "slice_update"
_VIEWS = frozenset(("slice_by_index", "slice_by_size", "reshape", "transpose", "expand_dims", "squeeze", "split"))
"""What shows a value, or part of it, and computes nothing of it."""


@dataclass(frozen=True)
class StateUse:
    """One state of a function.

    Attributes:
        state: The state.
        updates: What puts a value into it, in the order of the program.
        raw_readers: What computes with the value from before the first update without being part of that update.
        rows: How many entries of its first axis the function writes; a write of the whole axis counts as one.
    """

    state: Tensor
    updates: tuple[Operation, ...]
    raw_readers: tuple[Operation, ...]
    rows: int


def state_uses(program: Program) -> tuple[StateUse, ...]:
    """Describes each state that a function takes.

    Args:
        program: The function.

    Returns:
        One entry a state, in the order of the function's states.
    """
    makers = {output: operation for operation in program.operations for output in operation.outputs}
    return tuple(_use(state, program.operations, makers) for state in program.states)


def written_layers(uses: Sequence[StateUse]) -> int:
    """Returns how many layers a function writes keys and values for: two entries of the states' first axes each."""
    return (sum(use.rows for use in uses) + 1) // 2


def _use(state: Tensor, operations: Sequence[Operation], makers: dict[Tensor, Operation]) -> StateUse:
    updates = tuple(o for o in operations if o.type in STATE_WRITES and state in o.operands)
    return StateUse(
        state=state,
        updates=updates,
        raw_readers=_raw_readers(state, operations, updates[0], makers) if updates else (),
        rows=sum(_rows(update, state, makers) for update in updates),
    )


def _raw_readers(
    state: Tensor, operations: Sequence[Operation], update: Operation, makers: dict[Tensor, Operation]
) -> tuple[Operation, ...]:
    before_update = _ancestors(update, makers)
    raw: set[Tensor] = set()
    readers = []
    for operation in operations:
        if operation.type == _READ and state in operation.operands and operation.index < update.index:
            raw.update(operation.outputs)
        elif raw.isdisjoint(operation.operands):
            continue
        elif operation.type in _VIEWS:
            raw.update(operation.outputs)
        elif operation is not update and operation not in before_update:
            readers.append(operation)
    return tuple(readers)


def _ancestors(operation: Operation, makers: dict[Tensor, Operation]) -> set[Operation]:
    """Everything that an operation's operands are computed from."""
    found: set[Operation] = set()
    waiting = [operation]
    while waiting:
        for tensor in waiting.pop().operands:
            maker = makers.get(tensor)
            if maker is not None and maker not in found:
                found.add(maker)
                waiting.append(maker)
    return found


def _rows(update: Operation, state: Tensor, makers: dict[Tensor, Operation]) -> int:
    """Entries of the first axis that an update writes, through one `slice_update` after the other."""
    rows = 0
    value = next((tensor for tensor in update.operands if tensor is not state), None)
    while value is not None and value in makers and makers[value].type == _PART_WRITE:
        operation = makers[value]
        written = operation.inputs["update"][0].shape[:1]
        rows += 1 if written == state.shape[:1] else (written[0] or 1 if written else 1)
        value = operation.inputs["x"][0]
    return rows or 1
