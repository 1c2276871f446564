"""The trade of bytes for harm, against numbers worked out by hand and against trying everything."""

import itertools
import random

import pytest

from optimum_ane.compression.search import Choice, Option, frontier, hull, smallest_accepted, within_size

A = (Option("16", 160, 0.0), Option("8", 80, 1.0), Option("4", 40, 10.0), Option("bad", 60, 12.0))
B = (Option("16", 320, 0.0), Option("8", 160, 0.5), Option("4", 80, 0.9))


def test_the_hull_drops_what_is_worse_at_every_price():
    # "bad" takes more bytes than "4" and does more harm.
    assert [option.format for option in hull(A)] == ["4", "8", "16"]


def test_the_hull_drops_a_form_that_lies_above_the_line_between_its_neighbours():
    formats = (Option("a", 10, 10.0), Option("b", 20, 9.0), Option("c", 30, 0.0))
    assert [option.format for option in hull(formats)] == ["a", "c"]


def test_of_forms_of_one_size_the_least_harmful_is_taken():
    assert [option.format for option in hull((Option("a", 10, 2.0), Option("b", 10, 1.0)))] == ["b"]


def test_the_frontier_takes_the_steps_by_what_a_byte_gains():
    # By hand, harm for each byte: A 4→8 9/40, A 8→16 1/80, B 8→16 0.5/160, B 4→8 0.4/80.
    choices = frontier({"a": A, "b": B})
    assert [(choice.formats["a"], choice.formats["b"]) for choice in choices] == [
        ("4", "4"), ("8", "4"), ("16", "4"), ("16", "8"), ("16", "16"),
    ]  # fmt: skip
    assert [choice.size for choice in choices] == [120, 160, 240, 320, 480]
    assert [choice.harm for choice in choices] == pytest.approx([10.9, 1.9, 0.9, 0.5, 0.0])


def test_no_other_choice_is_smaller_and_less_harmful_than_one_of_the_frontier():
    chance = random.Random(0)
    options = {
        weight: tuple(Option(str(i), chance.randint(1, 50), chance.random()) for i in range(4)) for weight in "abcd"
    }
    every = [
        (sum(o.size for o in picked), sum(o.harm for o in picked)) for picked in itertools.product(*options.values())
    ]
    for choice in frontier(options):
        assert not any(size < choice.size and harm < choice.harm - 1e-12 for size, harm in every)


@pytest.mark.parametrize("budget", range(120, 500, 20))
def test_a_size_is_kept_and_left_over_bytes_are_used(budget):
    options = {"a": A, "b": B}
    choice = within_size(options, budget)
    assert choice.size <= budget
    every = (
        (sum(o.size for o in picked), sum(o.harm for o in picked)) for picked in itertools.product(A, B)
    )  # fmt: skip
    assert choice.harm == pytest.approx(min(harm for size, harm in every if size <= budget))


def test_a_size_below_the_smallest_choice_is_none():
    assert within_size({"a": A, "b": B}, 119) is None


def test_bisection_finds_the_first_choice_that_passes_in_few_trials():
    choices = [Choice({}, size, 0.0) for size in range(200)]
    tried = []

    def accepts(choice):
        tried.append(choice.size)
        return choice.size >= 137

    assert smallest_accepted(choices, accepts).size == 137
    assert len(tried) <= 9
    assert 136 in tried


def test_where_nothing_passes_only_the_largest_was_tried():
    tried = []
    assert smallest_accepted([Choice({}, size, 0.0) for size in range(9)], tried.append) is None
    assert [choice.size for choice in tried] == [8]
