"""Where each operation of a program is predicted to run, and the rule that says so.

Everything here is a prediction: Apple publishes no list of what the Neural Engine takes, and Core ML decides anew with
each version of the system. On a Mac, `analysis.compute_plan` asks Core ML itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimum_ane.analysis.chips import Chip
from optimum_ane.analysis.operations import STATE_WRITES, Operation, Program, Tensor
from optimum_ane.analysis.rule_conditions import Case
from optimum_ane.analysis.rules import Rule, Verdict, residency_rules

_LOAD_TIME = "constexpr_"
_PART_WRITE = "slice_update"


@dataclass(frozen=True)
class Placement:
    """Where one operation is predicted to run.

    Attributes:
        operation: The operation.
        verdict: `"ane"`, `"conditional"`: there under a condition that the program does not show, or `"fallback"`:
            the CPU or the GPU.
        rule: The rule that says so.
        at_start: Whether nothing that the engine computes leads to it.
    """

    operation: Operation
    verdict: Verdict
    rule: Rule
    at_start: bool


def place(program: Program, chip: Chip | None = None, rules: Sequence[Rule] | None = None) -> tuple[Placement, ...]:
    """Predicts for each operation where it runs.

    Constants do not count, nor do compressed weights (`constexpr_*`), which are decoded when the program is loaded.

    Args:
        program: The program.
        chip: The chip; None for any from A14 and M1 on, so that what differs between them is `"conditional"`.
        rules: The table; None takes the one that comes with this library.

    Returns:
        A placement for each operation, in the order of the program.
    """
    table = residency_rules() if rules is None else tuple(rules)
    placements = []
    behind_engine: set[Tensor] = set()
    in_state = _writes_in_state(program.operations)
    most_updates = _most_updates(program)
    for operation in program.operations:
        if operation.type.startswith(_LOAD_TIME):
            continue
        at_start = behind_engine.isdisjoint(operation.operands)
        case = Case(operation, program, chip, at_start, operation in in_state, most_updates)
        rule = next(rule for rule in table if rule.fits(case))
        placements.append(Placement(operation, rule.verdict, rule, at_start))
        if rule.verdict != "fallback" or not at_start:
            behind_engine.update(operation.outputs)
    return tuple(placements)


def _most_updates(program: Program) -> int:
    """Counts the updates of the state that is updated most."""
    writes = [operation for operation in program.operations if operation.type in STATE_WRITES]
    return max((sum(state in write.operands for write in writes) for state in program.states), default=0)


def _writes_in_state(operations: Sequence[Operation]) -> set[Operation]:
    """Finds what writes into part of a state: what it changes was read from one, and goes back into one."""
    read: set[Tensor] = set()
    for operation in operations:
        if operation.type in ("read_state", "coreml_update_state") or (
            operation.type == _PART_WRITE and not read.isdisjoint(operation.inputs["x"])
        ):
            read.update(operation.outputs)
    written: set[Tensor] = set()
    for operation in reversed(operations):
        if operation.type in STATE_WRITES:
            written.update(operation.operands)
        elif operation.type == _PART_WRITE and not written.isdisjoint(operation.outputs):
            written.update(operation.inputs["x"])
    return {
        operation
        for operation in operations
        if operation.type == _PART_WRITE
        and not read.isdisjoint(operation.inputs["x"])
        and not written.isdisjoint(operation.outputs)
    }
