"""A table of rules that cannot be right is refused, with the row and the reason."""

from types import SimpleNamespace

import pytest
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.operations import Operation
from optimum_ane.analysis.residency import place
from optimum_ane.analysis.rules import RuleError, read_rules, residency_rules

LAST = """
- id: last
  ops: any
  verdict: conditional
  reason: Nothing is known.
  remedy: Ask.
  source: none
  trust: uncertain
"""


def row(**changes):
    fields = {
        "id": "first",
        "ops": "[relu]",
        "verdict": "fallback",
        "reason": "Because.",
        "remedy": "Do.",
        "source": "a paper",
        "trust": "apple",
    }
    fields |= changes
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "- " + "\n  ".join(lines) + "\n"


def test_a_row_is_read_as_it_stands():
    rule = read_rules(row(when="{axis_above: 100}") + LAST)[0]
    assert (rule.id, rule.ops, rule.verdict, rule.trust) == ("first", {"relu"}, "fallback", "apple")
    assert rule.when == {"axis_above": 100}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("{}", "list of rules"),
        ("- 3\n" + LAST, "rule 1 is no mapping"),
        (row(wehn="{nested: true}") + LAST, "first.*unknown fields: wehn"),
        (row(reason=None) + LAST, "first.*lacks reason"),
        (row(source=None) + LAST, "first.*lacks source"),
        (row(verdict="maybe") + LAST, "verdict is one of ane, conditional, fallback"),
        (row(trust="hearsay") + LAST, "trust is one of apple"),
        (row(remedy=None) + LAST, "has a remedy"),
        (row(verdict="ane") + LAST, "has a remedy"),
        (row(ops="relu") + LAST, "ops is a list"),
        (row(ops="[]") + LAST, "ops is a list"),
        (row(when="{phase_of_the_moon: full}") + LAST, "no condition phase_of_the_moon"),
        (row(when="{axis_above: many}") + LAST, "axis_above does not take 'many'"),
        (row(when="{axis_above: true}") + LAST, "axis_above does not take True"),
        (row(when="{at_start: false}") + LAST, "at_start does not take False"),
        (row(when="{generation: {before: A99}}") + LAST, "generation does not take"),
        (row(when="{attribute: {strides: {below: 3}}}") + LAST, "attribute does not take"),
        (row() + row() + LAST, "two rules have this id"),
        (row() + row(id="second", when="{nested: true}") + LAST, "second is never reached: first decides"),
        (LAST + row(), "first is never reached: last decides"),
        (row(), "last rule must hold for any operation"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(table, says):
    with pytest.raises(RuleError, match=says):
        read_rules(table)


def test_every_rule_off_the_engine_says_what_to_do_and_every_rule_who_says_so():
    for rule in residency_rules():
        assert rule.source
        assert bool(rule.remedy) == (rule.verdict != "ane")


def test_a_new_row_decides_before_those_below_it():
    program = program_of(lambda x: mb.relu(x=x), x="fp16 1 8 1 64")
    (placement,) = place(program, rules=read_rules(row() + LAST))
    assert (placement.verdict, placement.rule.id) == ("fallback", "first")
    (placement,) = place(program, rules=read_rules(row(when="{axis_above: 64}") + LAST))
    assert placement.rule.id == "last"


@pytest.mark.parametrize(
    ("chip", "expected"),
    [(None, "conditional"), ("A14", "fallback"), ("M3", "fallback"), ("A17 Pro", "ane"), ("M4", "ane"), ("M5", "ane")],
)
def test_an_axis_above_16384_is_for_new_chips(chip, expected):
    program = program_of(lambda x: mb.relu(x=x), x="fp16 1 30522 1 1")
    (placement,) = place(program, None if chip is None else get_chip(chip))
    assert placement.verdict == expected


def test_constants_and_compressed_weights_do_not_count():
    program = program_of(lambda x: mb.relu(x=x), x="fp16 1 8 1 64")
    constexpr = Operation(0, "w", "constexpr_lut_to_dense", {}, (), {}, 0, 0)
    both = SimpleNamespace(operations=(constexpr, *program.operations), flexibility="none", states=())
    assert [placement.operation.type for placement in place(both)] == ["relu"]


def test_what_leads_only_to_inputs_is_at_the_start():
    def build(x, ids):
        rows = mb.gather(x=mb.const(val=[[1.0, 2.0]] * 4), indices=ids, axis=0)
        later = mb.gather(x=mb.relu(x=x), indices=[0], axis=0)
        return rows, later

    program = program_of(build, x="fp16 1 8", ids="int32 1")
    placed = {p.operation.type + str(p.at_start): p.rule.id for p in place(program) if p.operation.type == "gather"}
    assert placed == {"gatherTrue": "gather-at-start", "gatherFalse": "gather"}
