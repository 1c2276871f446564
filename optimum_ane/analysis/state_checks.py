"""What a rule of `data/state_rules.yaml` may check of a function: which limits the words take, and what they find.

The table explains each word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optimum_ane.analysis.operations import Operation, Program, Tensor
from optimum_ane.analysis.state_use import StateUse, written_layers


@dataclass(frozen=True)
class StatesOf:
    """What a check looks at.

    Attributes:
        program: The function.
        uses: Its states.
    """

    program: Program
    uses: tuple[StateUse, ...]


Found = Iterable[str]
"""The names of what breaks a rule: of operations, states, or inputs; or how much it is."""


@dataclass(frozen=True)
class Check:
    """A word of the vocabulary.

    Attributes:
        takes: Tells whether a limit makes sense; one that takes none is given None.
        find: The names of what breaks it; none where it is kept.
    """

    takes: Callable[[Any], bool]
    find: Callable[[StatesOf, Any], Found]


def _is_count(limit: Any) -> bool:
    return isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1


def _is_nothing(limit: Any) -> bool:
    return limit is None


def _is_kind(limit: Any) -> bool:
    return limit in ("range", "enumerated")


def _is_word(limit: Any) -> bool:
    return isinstance(limit, str) and bool(limit)


def _longest(tensor: Tensor) -> int:
    return max((extent or 0 for extent in tensor.shape), default=0)


def _names(operations: Iterable[Operation]) -> Found:
    return [operation.name for operation in operations]


def _flexible(case: StatesOf, kind: str) -> Found:
    return [tensor.name for tensor in case.program.inputs] if case.program.flexibility == kind else []


def _flexible_functions(case: StatesOf, kind: str) -> Found:
    return _flexible(case, kind) if case.program.others else []


def _unknown_shapes(case: StatesOf, _: None) -> Found:
    return _names(o for o in case.program.operations if any(None in output.shape for output in o.outputs))


def _updates(case: StatesOf, limit: int) -> Found:
    if len(case.uses) < 2:
        return []
    return [use.state.name for use in case.uses if len(use.updates) > limit]


def _shapes_differ(case: StatesOf, _: None) -> Found:
    return [state.name for state in case.program.states] if len({s.shape for s in case.program.states}) > 1 else []


def _raw_reads(case: StatesOf, _: None) -> Found:
    return _names(reader for use in case.uses for reader in use.raw_readers)


def _width(case: StatesOf, limit: int) -> Found:
    return [s.name for s in case.program.states if s.shape and (s.shape[-1] or 0) % limit]


def _rank(case: StatesOf, limit: int) -> Found:
    states = [state.name for state in case.program.states if len(state.shape) > limit]
    return states + list(_names(o for o in case.program.operations if any(len(t.shape) > limit for t in o.outputs)))


def _dimension(case: StatesOf, limit: int) -> Found:
    """What only moves data, as joining the parts of a split head does, has no arithmetic and does not count."""
    return _names(
        o for o in case.program.operations if o.flops and any(_longest(t) > limit for t in (*o.operands, *o.outputs))
    )


def _concat(case: StatesOf, _: None) -> Found:
    shapes = {state.shape for state in case.program.states}
    return _names(o for o in case.program.operations if o.type == "concat" and o.outputs[0].shape in shapes)


def _operation(case: StatesOf, kind: str) -> Found:
    return _names(o for o in case.program.operations if o.type == kind)


def _table(case: StatesOf, limit: int) -> Found:
    return _names(
        o
        for o in case.program.operations
        if o.type.startswith("gather") and any(t.is_constant and _longest(t) > limit for t in o.inputs.get("x", ()))
    )


def _weights(case: StatesOf, limit: int) -> Found:
    return [f"{case.program.weight_bytes / 1e9:.2f} GB"] if case.program.weight_bytes > limit else []


def _layers(case: StatesOf, limit: int) -> Found:
    layers = written_layers(case.uses)
    return [f"{layers} layers"] if layers > limit else []


CHECKS: Mapping[str, Check] = {
    "flexible_shapes": Check(_is_kind, _flexible),
    "flexible_functions": Check(_is_kind, _flexible_functions),
    "unknown_shapes": Check(_is_nothing, _unknown_shapes),
    "updates_above": Check(_is_count, _updates),
    "shapes_differ": Check(_is_nothing, _shapes_differ),
    "raw_reads": Check(_is_nothing, _raw_reads),
    "width_off": Check(_is_count, _width),
    "rank_above": Check(_is_count, _rank),
    "dimension_above": Check(_is_count, _dimension),
    "state_shaped_concat": Check(_is_nothing, _concat),
    "operation": Check(_is_word, _operation),
    "table_rows_above": Check(_is_count, _table),
    "weights_above": Check(_is_count, _weights),
    "layers_above": Check(_is_count, _layers),
}
"""By the word in the table."""
