"""Which rules for states and functions a program breaks. The rules are public sources'; nothing here ran on a device.

The table is `data/state_rules.yaml`, which explains itself; residency of single operations is `residency`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from optimum_ane.analysis.chips import Chip, get_chip
from optimum_ane.analysis.operations import Program
from optimum_ane.analysis.rules import RuleError, Trust
from optimum_ane.analysis.state_checks import CHECKS, StatesOf
from optimum_ane.analysis.state_use import state_uses
from optimum_ane.errors import ANEError

Severity = Literal["error", "warning"]

_REQUIRED = ("id", "check", "severity", "reason", "remedy", "source", "trust")
_OPTIONAL = ("limit", "before", "stateless")
_NAMES_SAID = 3


@dataclass(frozen=True)
class StateRule:
    """One row of the table.

    Attributes:
        id: Unique.
        check: A word of `state_checks.CHECKS`.
        limit: What the check takes.
        before: The rule is for chips of an earlier generation than this one's, and where no chip is named; None is
            for all.
        stateless: Whether it is for functions without a state as well.
        severity: `"error"`: such a program does not load; `"warning"`: it was seen to fail, or to leave the engine.
        reason: Why, in plain words.
        remedy: What to do about it.
        source: Who says so.
        trust: What kind of source that is.
    """

    id: str
    check: str
    limit: Any
    before: Chip | None
    stateless: bool
    severity: Severity
    reason: str
    remedy: str
    source: str
    trust: Trust

    def find(self, case: StatesOf, chip: Chip | None) -> tuple[str, ...]:
        """Returns the names of what breaks the rule in a function; none where it is kept or is not meant."""
        if not case.uses and not self.stateless:
            return ()
        if self.before is not None and chip is not None and chip.generation >= self.before.generation:
            return ()
        return tuple(CHECKS[self.check].find(case, self.limit))


@dataclass(frozen=True)
class Finding:
    """A rule that a function breaks.

    Attributes:
        rule: The rule.
        names: Of the operations, states or inputs that break it.
    """

    rule: StateRule
    names: tuple[str, ...]

    def sentence(self) -> str:
        """The finding as a report says it: what breaks which rule, why, what to do, and who says so."""
        more = len(self.names) - _NAMES_SAID
        named = ", ".join(self.names[:_NAMES_SAID]) + (f" and {more} more" if more > 0 else "")
        rule = self.rule
        return f"{rule.id} ({named}): {rule.reason} {rule.remedy} Source ({rule.trust}): {rule.source}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON holds it."""
        rule = self.rule
        return {
            "rule": rule.id,
            "severity": rule.severity,
            "names": list(self.names[:_NAMES_SAID]),
            "count": len(self.names),
            "reason": rule.reason,
            "remedy": rule.remedy,
            "source": rule.source,
            "trust": rule.trust,
        }


def lint(program: Program, chip: Chip | None = None, rules: Sequence[StateRule] | None = None) -> tuple[Finding, ...]:
    """Finds the rules for states and functions that a function breaks.

    Args:
        program: The function.
        chip: The chip; None asks for all from A14 and M1 on.
        rules: The table; None takes the one that comes with this library.

    Returns:
        Errors first, each kind in the order of the table.
    """
    case = StatesOf(program, state_uses(program))
    found = ((rule, rule.find(case, chip)) for rule in (state_rules() if rules is None else rules))
    findings = [Finding(rule, names) for rule, names in found if names]
    return tuple(sorted(findings, key=lambda finding: finding.rule.severity != "error"))


@functools.cache
def state_rules() -> tuple[StateRule, ...]:
    """Returns the table that comes with this library."""
    text = files("optimum_ane.analysis").joinpath("data/state_rules.yaml").read_text(encoding="utf-8")
    return read_state_rules(text)


def read_state_rules(text: str) -> tuple[StateRule, ...]:
    """Reads a table.

    Args:
        text: YAML, a list of rows.

    Raises:
        RuleError: A row lacks something or has something unknown.
    """
    rows = yaml.safe_load(text)
    if not isinstance(rows, list):
        raise RuleError("the table should be a list of rules")
    rules = tuple(_rule(row, number) for number, row in enumerate(rows, 1))
    names = [rule.id for rule in rules]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise RuleError(f"{doubled[0]}: two rules have this id")
    return rules


def _rule(row: Any, number: int) -> StateRule:
    if not isinstance(row, dict):
        raise RuleError(f"rule {number} is no mapping")
    place = f"rule {number} ({row.get('id')})"
    unknown = [str(key) for key in row if key not in _REQUIRED + _OPTIONAL]
    if unknown:
        raise RuleError(f"{place} has unknown fields: {', '.join(unknown)}")
    lacking = [name for name in _REQUIRED if not isinstance(row.get(name), str) or not row[name]]
    if lacking:
        raise RuleError(f"{place} lacks {lacking[0]}")
    for name, known in (("severity", get_args(Severity)), ("trust", get_args(Trust)), ("check", tuple(CHECKS))):
        if row[name] not in known:
            raise RuleError(f"{place}: {name} is one of {', '.join(known)}, not {row[name]}")
    if not CHECKS[row["check"]].takes(row.get("limit")):
        raise RuleError(f"{place}: {row['check']} does not take {row.get('limit')!r}")
    if row.get("stateless", True) is not True:
        raise RuleError(f"{place}: stateless is true or left out")
    try:
        before = None if "before" not in row else get_chip(row["before"])
    except ANEError as error:
        raise RuleError(f"{place}: {error}") from error
    return StateRule(
        id=row["id"],
        check=row["check"],
        limit=row.get("limit"),
        before=before,
        stateless="stateless" in row,
        severity=row["severity"],
        reason=row["reason"],
        remedy=row["remedy"],
        source=row["source"],
        trust=row["trust"],
    )
