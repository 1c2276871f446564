"""Regions: as few as the order of the data allows."""

import itertools
import random

import numpy as np
import pytest
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.operations import Operation, Tensor
from optimum_ane.analysis.partition import crossings, find_offenders, partition, worst_offender
from optimum_ane.analysis.residency import Placement, place
from optimum_ane.analysis.rules import residency_rules

FALLBACK = next(rule for rule in residency_rules() if rule.verdict == "fallback")
ANE = next(rule for rule in residency_rules() if rule.verdict == "ane")


def placements_of(text):
    """`"a:ane b:cpu<a c:view<b"` as placements: b runs on the CPU and reads a, c gives it another shape."""
    tensors, placements = {}, []
    for index, word in enumerate(text.split()):
        name, _, rest = word.partition(":")
        device, _, reads = rest.partition("<")
        operands = tuple(tensors[each] for each in reads.split(",") if each)
        tensors[name] = Tensor(name, "float16", (1, 4))
        kind = "reshape" if device == "view" else "relu"
        operation = Operation(index, name, kind, {"x": operands}, (tensors[name],), {}, index, 0)
        rule = FALLBACK if device == "cpu" else ANE
        placements.append(Placement(operation, rule.verdict, rule, False))
    return placements


def regions_of(text):
    return [
        (region.device, "".join(operation.name for operation in region.operations))
        for region in partition(placements_of(text))
    ]


def test_a_chain_is_cut_where_the_device_changes():
    assert regions_of("a:ane b:cpu<a c:ane<b") == [("ane", "a"), ("cpu", "b"), ("ane", "c")]


def test_what_reads_only_inputs_cuts_nothing_wherever_it_stands():
    assert regions_of("a:ane b:cpu c:ane<a d:ane<b,c") == [("cpu", "b"), ("ane", "acd")]


def test_what_nothing_waits_for_runs_at_the_end():
    assert regions_of("a:ane b:cpu<a c:ane<a d:ane<c") == [("ane", "acd"), ("cpu", "b")]


def test_what_gives_a_value_another_shape_runs_where_the_value_is():
    assert regions_of("a:cpu b:view<a c:cpu<b d:ane<c e:view<d") == [("cpu", "abc"), ("ane", "de")]
    assert regions_of("a:view b:view<a") == [("ane", "ab")]


def test_no_operations_are_no_regions():
    assert partition([]) == ()
    assert crossings(()) == 0


@pytest.mark.parametrize("seed", range(30))
def test_no_order_has_fewer_regions(seed):
    """All orders of small random graphs are tried."""
    generator = random.Random(seed)
    names = "abcdefg"
    reads = {name: [n for n in names[:i] if generator.random() < 0.3] for i, name in enumerate(names)}
    device = {name: generator.choice(("ane", "cpu", "view")) for name in names}
    fewest = min(
        1 + sum(device[a] != device[b] for a, b in itertools.pairwise(n for n in order if device[n] != "view"))
        for order in itertools.permutations(names)
        if all(order.index(n) < i for i, name in enumerate(order) for n in reads[name])
    )
    text = " ".join(f"{name}:{device[name]}<{','.join(reads[name])}" for name in names)
    regions = regions_of(text)
    assert len(regions) == fewest
    order = "".join(each for _, each in regions)
    assert sorted(order) == sorted(names)
    assert all(order.index(n) < order.index(name) for name in names for n in reads[name])


def test_the_body_of_a_branch_stays_with_it():
    def build(x, ids):
        rows = mb.gather(x=np.ones((9, 8), np.float16), indices=ids, axis=0)
        positive = mb.greater(x=mb.reduce_max(x=mb.relu(x=rows), axes=[0, 1], keep_dims=False), y=np.float16(0))
        # The body reads an input alone, and could run at once if it were not part of the branch.
        z = mb.cond(pred=positive, _true_fn=lambda: mb.mul(x=x, y=np.float16(2)), _false_fn=lambda: mb.add(x=x, y=x))
        return mb.relu(x=z)

    regions = partition(place(program_of(build, x="fp16 1 8", ids="int32 1")))
    assert [region.device for region in regions] == ["cpu", "ane", "cpu", "ane"]
    assert [operation.type for operation in regions[2].operations] == ["cond", "mul", "add"]


def test_reading_and_writing_a_state_keep_their_order():
    """What is read after a write may be on another device, and no value leads from one to the other."""
    state, first, update, second = (Tensor(name, "float16", (1, 4)) for name in ("state", "first", "update", "second"))
    steps = [
        ("read_state", {"input": (state,)}, (first,), ANE),
        ("cumsum", {"x": (first,)}, (update,), FALLBACK),
        ("write_state", {"input": (state,), "data": (update,)}, (), ANE),
        ("read_state", {"input": (state,)}, (second,), ANE),
    ]
    placements = [
        Placement(Operation(i, op, op, inputs, outputs, {}, 0, 0), rule.verdict, rule, False)
        for i, (op, inputs, outputs, rule) in enumerate(steps)
    ]
    order = [operation.index for region in partition(placements) for operation in region.operations]
    assert order == [0, 1, 2, 3]


def test_offenders_stand_at_the_start_in_the_middle_or_at_the_end():
    placements = placements_of("a:cpu b:ane<a c:cpu<b d:ane<c e:cpu<d")
    offenders = find_offenders(placements, partition(placements))
    assert [(o.placement.operation.name, o.position) for o in offenders] == [
        ("a", "start"),
        ("c", "middle"),
        ("e", "end"),
    ]


def test_the_worst_offender_cuts_the_middle_even_if_one_at_the_edge_computes_more():
    placements = placements_of("a:cpu b:ane<a c:cpu<b d:ane<c e:cpu<d")  # e has the most FLOPs
    worst = worst_offender(find_offenders(placements, partition(placements)))
    assert worst.placement.operation.name == "c"
    assert worst_offender(()) is None
