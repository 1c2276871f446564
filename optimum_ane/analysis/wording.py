"""How what was found of a program is put into words, the same on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimum_ane.analysis.chips import Chip
from optimum_ane.analysis.inspection import RuleGroup
from optimum_ane.analysis.lint import StateRule
from optimum_ane.analysis.partition import Position
from optimum_ane.analysis.rules import Rule

_NAMES_SHOWN = 3
PLACES: Mapping[Position, str] = {"start": "at the start", "end": "at the end", "middle": "in the middle"}


def audience(chip: Chip | None) -> str:
    """What a prediction is for."""
    return "any chip from A14 and M1 on" if chip is None else chip.name


def group_text(group: RuleGroup) -> str:
    """Which operations a rule decides: `"2 conv, in the middle, 0.0012 GFLOP"`."""
    types = ", ".join(sorted({operation.type for operation in group.operations}))
    places = " and ".join(PLACES[place] for place in sorted(set(group.positions)))
    work = f"{group.flops / 1e9:.4f} GFLOP" if group.flops else ""
    return ", ".join(filter(None, (f"{len(group.operations)} {types}", places, work)))


def some_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def rule_lines(rule: Rule | StateRule) -> tuple[str, str, str]:
    """Why, what to do about it, and who says so."""
    return rule.reason, f"Remedy: {rule.remedy}", f"Source ({rule.trust}): {rule.source}"


def shape_text(shape: Sequence[int | None]) -> str:
    """`"1 × 384 × 1 × ?"`, the question mark for an extent that is known only when the program runs."""
    return " × ".join("?" if extent is None else str(extent) for extent in shape)
