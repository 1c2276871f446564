"""The table of residency rules: how it is read, checked, and what its conditions mean.

The table is `data/residency_rules.yaml`, which explains itself. There is no code in it: a condition is a name of the
fixed vocabulary below and a plain value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from optimum_ane.analysis.chips import Chip, get_chip
from optimum_ane.analysis.operations import Operation, Program, Tensor
from optimum_ane.errors import ANEError

Verdict = Literal["ane", "conditional", "fallback"]
Trust = Literal["apple", "measured", "reverse-engineered", "uncertain"]

_FIELDS = ("id", "ops", "when", "verdict", "reason", "remedy", "source", "trust")
_ANY = "any"


class RuleError(ValueError):
    """A row of the table that cannot be right; the message names the row and what is wrong with it."""


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        id: Unique.
        ops: The operation types that it is about; empty for any.
        when: The conditions, all of which must hold.
        verdict: `"ane"`, `"conditional"` or `"fallback"`.
        reason: Why, in plain words.
        remedy: What to do about it; empty for `"ane"`.
        source: Who says so.
        trust: What kind of source that is.
    """

    id: str
    ops: frozenset[str]
    when: Mapping[str, Any]
    verdict: Verdict
    reason: str
    remedy: str
    source: str
    trust: Trust

    def fits(self, case: Case) -> bool:
        """Tells whether the rule speaks of this operation."""
        if self.ops and case.operation.type not in self.ops:
            return False
        return all(_CONDITIONS[name].holds(value, case) for name, value in self.when.items())


@dataclass(frozen=True)
class Case:
    """What a rule is asked about.

    Attributes:
        operation: The operation.
        program: The program that it is in.
        chip: The chip; None where none was named.
        at_start: Whether nothing that the engine computes leads to the operation.
        in_state: Whether it writes into what was read from a state and goes back into one.
    """

    operation: Operation
    program: Program
    chip: Chip | None
    at_start: bool
    in_state: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The computed operands and the results: constants do not count."""
        return self.operation.operands + self.operation.outputs


@dataclass(frozen=True)
class _Condition:
    """A word of the vocabulary: which values it takes, and what it means."""

    takes: Callable[[Any], bool]
    holds: Callable[[Any, Case], bool]


def read_rules(text: str) -> tuple[Rule, ...]:
    """Reads a table.

    Args:
        text: YAML, a list of rows.

    Returns:
        The rules in order.

    Raises:
        RuleError: A row lacks something, has something unknown, or can never be reached.
    """
    rows = yaml.safe_load(text)
    if not isinstance(rows, list):
        raise RuleError("the table should be a list of rules")
    rules: list[Rule] = []
    for number, row in enumerate(rows):
        rule = _rule(row, f"rule {number + 1}")
        if any(rule.id == other.id for other in rules):
            raise RuleError(f"{rule.id}: two rules have this id")
        for other in rules:
            if not other.when and (not other.ops or (rule.ops and rule.ops <= other.ops)):
                raise RuleError(f"{rule.id} is never reached: {other.id} decides all that it speaks of")
        rules.append(rule)
    if not rules or rules[-1].ops or rules[-1].when:
        raise RuleError("the last rule must hold for any operation")
    return tuple(rules)


@functools.cache
def residency_rules() -> tuple[Rule, ...]:
    """Returns the table that comes with this library."""
    return read_rules(files("optimum_ane.analysis").joinpath("data/residency_rules.yaml").read_text(encoding="utf-8"))


def _rule(row: Any, place: str) -> Rule:
    """Checks one row."""
    if not isinstance(row, dict):
        raise RuleError(f"{place} is no mapping")
    place = f"{place} ({row.get('id')})"
    unknown = [str(key) for key in row if key not in _FIELDS]
    if unknown:
        raise RuleError(f"{place} has unknown fields: {', '.join(unknown)}")
    for name in ("id", "reason", "source", "verdict", "trust"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise RuleError(f"{place} lacks {name}")
    if row["verdict"] not in get_args(Verdict):
        raise RuleError(f"{place}: verdict is one of {', '.join(get_args(Verdict))}, not {row['verdict']}")
    if row["trust"] not in get_args(Trust):
        raise RuleError(f"{place}: trust is one of {', '.join(get_args(Trust))}, not {row['trust']}")
    if (row["verdict"] == "ane") == ("remedy" in row):
        raise RuleError(f"{place}: what is not on the engine has a remedy, and nothing else has")
    ops = row.get("ops")
    if ops != _ANY and not (ops and _is_words(ops)):
        raise RuleError(f"{place}: ops is a list of operation types, or {_ANY}")
    when = row.get("when", {})
    if not isinstance(when, dict):
        raise RuleError(f"{place}: when is a mapping of conditions")
    for name, value in when.items():
        if name not in _CONDITIONS:
            raise RuleError(f"{place}: no condition {name}; there are: {', '.join(_CONDITIONS)}")
        if not _CONDITIONS[name].takes(value):
            raise RuleError(f"{place}: {name} does not take {value!r}")
    return Rule(
        id=row["id"],
        ops=frozenset() if ops == _ANY else frozenset(ops),
        when=when,
        verdict=row["verdict"],
        reason=row["reason"],
        remedy=row.get("remedy", ""),
        source=row["source"],
        trust=row["trust"],
    )


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_true(value: Any) -> bool:
    return value is True


def _is_attribute(value: Any) -> bool:
    tests = ("in", "not_in", "above", "mixed")
    return isinstance(value, dict) and all(
        isinstance(test, dict) and test and all(word in tests for word in test) for test in value.values()
    )


def _is_generation(value: Any) -> bool:
    if value == "unknown":
        return True
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"before", "from"}:
        return False
    try:
        get_chip(*value.values())
    except ANEError:
        return False
    return True


def _longest(tensor: Tensor) -> int:
    return max((extent or 0 for extent in tensor.shape), default=0)


def _window(case: Case) -> int:
    """Returns the longest axis of a convolution's or pooling's window: a weight is [C_out, C_in, window…]."""
    sizes = case.operation.attributes.get("kernel_sizes", [])
    for weight in case.operation.inputs.get("weight", ()):
        sizes = [extent or 0 for extent in weight.shape[2:]]
    return max(_numbers(sizes), default=0)


def _matrices(case: Case) -> int:
    count = 1
    for extent in case.operation.outputs[0].shape[:-2] if case.operation.outputs else ():
        count *= 1 if extent is None else extent
    return count


def _batch(case: Case) -> int:
    shape = case.operation.outputs[0].shape if case.operation.outputs else ()
    return (shape[0] or 1) if shape else 1


def _numbers(value: Any) -> list[Any]:
    """Returns a value as a list; a scalar is a list of one."""
    return value if isinstance(value, list) else [value]


def _attribute(tests: Mapping[str, Mapping[str, Any]], case: Case) -> bool:
    """Tells whether attributes pass their tests; one that the program does not state passes none."""
    for name, test in tests.items():
        if name not in case.operation.attributes:
            return False
        items = _numbers(case.operation.attributes[name])
        for word, wanted in test.items():
            if not _TESTS[word](items, wanted):
                return False
    return True


_TESTS: Mapping[str, Callable[[list[Any], Any], bool]] = {
    "in": lambda items, wanted: any(item in wanted for item in items),
    "not_in": lambda items, wanted: any(item not in wanted for item in items),
    "above": lambda items, wanted: any(isinstance(item, int | float) and item > wanted for item in items),
    "mixed": lambda items, wanted: any(item != items[0] for item in items) is wanted,
}


def _bound(names: list[str], case: Case, is_constant: bool) -> bool:
    """Tells whether one of these parameters is constant, or computed."""
    tensors = (tensor for name in names for tensor in case.operation.inputs.get(name, ()))
    return any(tensor.is_constant is is_constant for tensor in tensors)


def _generation(wanted: Any, case: Case) -> bool:
    if wanted == "unknown":
        return case.chip is None
    if case.chip is None:
        return False
    ((word, name),) = wanted.items()
    other = get_chip(name).generation
    return case.chip.generation < other if word == "before" else case.chip.generation >= other


_CONDITIONS: Mapping[str, _Condition] = {
    "dtype": _Condition(_is_words, lambda names, case: any(t.dtype in names for t in case.tensors)),
    "rank_above": _Condition(_is_number, lambda rank, case: any(len(t.shape) > rank for t in case.tensors)),
    "rank_below": _Condition(
        _is_number, lambda rank, case: any(len(t.shape) < rank for t in case.operation.outputs[:1])
    ),
    "axis_above": _Condition(_is_number, lambda length, case: any(_longest(t) > length for t in case.tensors)),
    "kernel_above": _Condition(_is_number, lambda length, case: _window(case) > length),
    "matrices_above": _Condition(_is_number, lambda count, case: _matrices(case) > count),
    "batch_above": _Condition(_is_number, lambda count, case: _batch(case) > count),
    "unknown_shape": _Condition(_is_true, lambda _, case: any(None in t.shape for t in case.tensors)),
    "flexible": _Condition(
        lambda kind: kind in ("range", "enumerated"), lambda kind, case: case.program.flexibility == kind
    ),
    "attribute": _Condition(_is_attribute, _attribute),
    "computed": _Condition(_is_words, lambda names, case: _bound(names, case, is_constant=False)),
    "constant": _Condition(_is_words, lambda names, case: _bound(names, case, is_constant=True)),
    "generation": _Condition(_is_generation, _generation),
    "at_start": _Condition(_is_true, lambda _, case: case.at_start),
    "nested": _Condition(_is_true, lambda _, case: case.operation.depth > 0),
    "in_state": _Condition(_is_true, lambda _, case: case.in_state),
    "states_above": _Condition(_is_number, lambda count, case: len(case.program.states) > count),
}
