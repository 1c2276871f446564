"""The table of residency rules: how it is read and checked.

The table is `data/residency_rules.yaml`, which explains itself. There is no code in it: a condition is a word of the
fixed vocabulary in `rule_conditions` and a plain value.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from optimum_ane.analysis.rule_conditions import CONDITIONS, Case, is_words

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
        return all(CONDITIONS[name].holds(value, case) for name, value in self.when.items())


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
    if ops != _ANY and not (ops and is_words(ops)):
        raise RuleError(f"{place}: ops is a list of operation types, or {_ANY}")
    when = row.get("when", {})
    if not isinstance(when, dict):
        raise RuleError(f"{place}: when is a mapping of conditions")
    for name, value in when.items():
        if name not in CONDITIONS:
            raise RuleError(f"{place}: no condition {name}; there are: {', '.join(CONDITIONS)}")
        if not CONDITIONS[name].takes(value):
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
