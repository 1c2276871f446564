"""Costs by hand: bytes over bandwidth, operations over rate, on an engine of round numbers."""

from pathlib import Path
from types import MappingProxyType

import pytest

from optimum_ane.analysis.chips import Engine, assume, get_chip
from optimum_ane.analysis.cost import BOUNDS, Parts, device_changes, estimate, step_cost
from optimum_ane.analysis.cost_parameters import CostParameters, cost_parameters, read_parameters
from optimum_ane.analysis.flops import count_flops
from optimum_ane.analysis.operations import Operation, Program, Tensor
from optimum_ane.analysis.partition import Region
from optimum_ane.analysis.steps import Step, padded_bytes, read_steps

# 10^13 operations and 10^11 bytes a second: 10^10 and 10^8 a millisecond.
ENGINE = Engine(get_chip("M1"), tflops=10, bandwidth_gbs=100, dispatch_ms=0.25, assumptions=())
PARAMETERS = CostParameters(
    convolution_share=0.5,
    einsum_share=0.1,
    linear_share=0.2,
    activation_bandwidth=4,
    host_gbs=2,
    crossing_ms=0.5,
    spill_mb=10,
    low=0.5,
    high=2,
)


def tensor(*shape, dtype="float16"):
    return Tensor("x", dtype, shape)


def weight(*shape, stored=None, stored_dtype="float16"):
    dense = Tensor("w", "float16", shape)
    return Tensor("w", "float16", shape, True, dense.dense_bytes if stored is None else stored, True, stored_dtype)


def operation(kind, output, attributes=None, **inputs):
    operands = {name: (value,) for name, value in inputs.items()}
    shapes = {name: [value.shape] for name, value in inputs.items()}
    stored = sum(value.stored_bytes for value in inputs.values() if value.in_file)
    flops = count_flops(kind, shapes, [output.shape], attributes or {})
    return Operation(0, "y", kind, MappingProxyType(operands), (output,), attributes or {}, flops, stored)


def convolution(x, channels, **settings):
    kernel = weight(channels, x.shape[1], 1, 1, **settings)
    return operation("conv", tensor(x.shape[0], channels, *x.shape[2:]), x=x, weight=kernel)


def program(*operations):
    weights = tuple(w for o in operations for w in o.weights)
    return Program(Path("p.mlpackage"), "main", operations, (), (), (), weights, sum(w.stored_bytes for w in weights))


def price(*operations, chip="M1"):
    return estimate(program(*operations), [Region("ane", operations)], get_chip(chip), PARAMETERS)


def test_a_convolution_over_many_positions_is_bound_by_arithmetic():
    # 1000 → 1000 channels over 64 · 64 positions: 2 · 4096 · 10^6 operations at half of 10^10 a millisecond.
    (step,) = read_steps([convolution(tensor(1, 1000, 64, 64), 1000)])
    parts = step_cost(step, ENGINE, PARAMETERS)
    assert parts.arithmetic == pytest.approx(8.192e9 / 5e9)
    # 2 · 1000 · 4096 · 2 bytes exceed the 10 MB that stay on the chip: at 10^8 a millisecond.
    assert parts.activations == pytest.approx(16.384e6 / 1e8)
    assert parts.weights == 0
    assert parts.bound == "arithmetic"


def test_a_convolution_over_one_row_of_positions_is_bound_by_its_weights():
    # 4000 · 4000 weights of 2 bytes at 10^8 bytes a millisecond; arithmetic: 2 · 32 · 16·10^6 / 5·10^9 = 0.2 ms.
    (step,) = read_steps([convolution(tensor(1, 4000, 1, 32), 4000)])
    parts = step_cost(step, ENGINE, PARAMETERS)
    assert parts == Parts(weights=pytest.approx(0.32))
    assert parts.bound == "weights"


def test_a_softmax_is_bound_by_its_activations():
    # 1 · 1000 · 1 · 1000 in and out, 2 bytes each and 1000 · 2 padded from 2000 to 2048: 4.096 MB at four times B.
    x = tensor(1, 1000, 1, 1000)
    (step,) = read_steps([operation("softmax", tensor(1, 1000, 1, 1000), x=x)])
    parts = step_cost(step, ENGINE, PARAMETERS)
    assert parts == Parts(activations=pytest.approx(2 * 2.048e6 / 4e8))
    assert parts.bound == "activations"


def test_what_is_read_of_a_state_comes_from_memory_as_weights_do():
    state = tensor(4, 2, 64, 32)
    read = operation("read_state", tensor(4, 2, 64, 32), input=state)
    keys = operation("slice_by_index", tensor(1, 2, 64, 32), x=read.outputs[0])
    whole = operation("reduce_sum", tensor(4, 2, 64, 1), x=read.outputs[0])
    free, part, all_of_it = read_steps([read, keys, whole])
    assert free.kind == "free"
    assert (part.weight_bytes, part.activation_bytes) == (2 * 64 * 32 * 2, 2 * 64 * 32 * 2)
    assert (all_of_it.weight_bytes, all_of_it.activation_bytes) == (4 * 2 * 64 * 32 * 2, 4 * 2 * 64 * 64)


def test_what_the_cpu_hands_to_the_engine_is_padded_and_what_it_keeps_is_not():
    rows = operation("gather", tensor(16, 32, 1, 1), x=tensor(9, 32, 1, 1), indices=tensor(16, dtype="int32"))
    flat = operation("reshape", tensor(16, 32), x=rows.outputs[0])
    used = operation("softmax", tensor(16, 32), x=flat.outputs[0])
    ids = 16 * 4 + 9 * 32 * 2
    kept, _, _ = read_steps([rows, flat, used], on_host=[rows, flat])
    handed, _, _ = read_steps([rows, flat, used], on_host=[rows])
    assert (kept.activation_bytes - ids, handed.activation_bytes - ids) == (16 * 32 * 2, 16 * 32 * 64)


def test_a_program_cut_in_three_is_bound_by_crossings():
    first, last = convolution(tensor(1, 32, 1, 32), 32), convolution(tensor(1, 32, 1, 32), 32)
    middle = operation("topk", tensor(1, 5), x=tensor(1, 32))
    regions = [Region("ane", (first,)), Region("cpu", (middle,)), Region("ane", (last,))]
    cost = estimate(program(first, middle, last), regions, get_chip("M1"), PARAMETERS)
    # Two changes at 0.5 ms; the CPU reads 64 bytes and writes 10 at 2·10^6 a millisecond.
    assert cost.parts.crossings == pytest.approx(2 * 0.5 + 74 / 2e6)
    assert cost.bound == "crossings"
    assert cost.parts.dispatch == 0.22


def test_einsums_and_linear_layers_have_shares_of_their_own():
    left, right = tensor(1, 1000, 1, 500), tensor(1, 500, 1, 1000)
    einsum = Operation(
        0,
        "y",
        "einsum",
        MappingProxyType({"values": (left, right)}),
        (tensor(1, 500, 1, 500),),
        {"equation": "bchq,bkhc->bkhq"},
        count_flops(
            "einsum", {"values": [left.shape, right.shape]}, [(1, 500, 1, 500)], {"equation": "bchq,bkhc->bkhq"}
        ),
        0,
    )
    linear = operation("linear", tensor(1, 500, 1000), x=tensor(1, 500, 1000), weight=weight(1000, 1000))
    parts = [step_cost(step, ENGINE, PARAMETERS) for step in read_steps([einsum, linear])]
    assert parts[0].arithmetic == pytest.approx(2 * 500 * 500 * 1000 / 1e9)
    assert parts[1].arithmetic == pytest.approx(2 * 500 * 1000 * 1000 / 2e9)


def test_an_estimate_is_the_sum_of_its_operations_and_the_dispatch():
    x = tensor(1, 512, 1, 128)
    one, two = convolution(x, 512), operation("softmax", tensor(1, 512, 1, 128), x=x)
    cost = price(one, two)
    assert cost.typical_ms == pytest.approx(0.22 + sum(each.milliseconds for each in cost.operations))
    assert cost.typical_ms == pytest.approx(sum(getattr(cost.parts, name) for name in BOUNDS))
    assert (cost.low_ms, cost.high_ms) == (cost.typical_ms * 0.5, cost.typical_ms * 2)


def test_a_program_wholly_on_the_cpu_is_not_dispatched_to_the_engine():
    one = operation("topk", tensor(1, 5), x=tensor(1, 32))
    cost = estimate(program(one), [Region("cpu", (one,))], get_chip("M1"), PARAMETERS)
    assert cost.parts == Parts(crossings=pytest.approx(74 / 2e6))


def test_a_look_up_reads_the_rows_that_it_picks():
    table = weight(30000, 768)
    look_up = operation("gather", tensor(1, 128, 768), x=table, indices=tensor(1, 128, dtype="int32"))
    (step,) = read_steps([look_up], [look_up])
    assert step == Step("host", 0, 128 * 768 * 2, 128 * 768 * 2 + 128 * 4)


def test_a_slice_moves_what_it_picks_and_an_update_what_it_writes():
    cut = operation("slice_by_index", tensor(1, 64, 1, 32), x=tensor(1, 64, 1, 4096))
    update = operation("slice_update", tensor(1, 64, 1, 4096), x=tensor(1, 64, 1, 4096), update=tensor(1, 64, 1, 32))
    assert [step.activation_bytes for step in read_steps([cut, update])] == [2 * 64 * 64, 2 * 64 * 64]


def test_what_goes_back_into_a_state_is_not_moved_again():
    value = tensor(1, 64, 1, 4096)
    write = Operation(0, "", "write_state", {"input": (tensor(1, 64, 1, 4096),), "data": (value,)}, (), {}, 0, 0)
    assert read_steps([write])[0].kind == "free"


def test_functions_of_one_element_and_changes_of_shape_are_free():
    x = tensor(1, 64, 1, 64)
    for kind in ("gelu", "relu", "reshape", "cast"):
        assert read_steps([operation(kind, tensor(1, 64, 1, 64), x=x)])[0].kind == "free"


def test_an_addition_joins_the_operation_that_made_one_of_its_operands():
    x, residual = tensor(1, 64, 1, 64), tensor(1, 64, 1, 64)
    one = convolution(x, 64)
    bent = operation("gelu", tensor(1, 64, 1, 64), x=one.outputs[0])
    added = operation("add", tensor(1, 64, 1, 64), x=bent.outputs[0], y=residual)
    steps = read_steps([one, bent, added])
    assert steps[2].activation_bytes == 64 * 64 * 2  # the residual only


def test_an_addition_does_not_join_an_operand_that_is_spread_over_the_result():
    x, small = tensor(1, 64, 1, 64), convolution(tensor(1, 64, 1, 1), 64)
    added = operation("add", tensor(1, 64, 1, 64), x=x, y=small.outputs[0])
    assert read_steps([small, added])[1].activation_bytes == 2 * 64 * 64 * 2 + 64 * 64


def test_an_addition_does_not_join_what_others_read_too():
    x, residual = tensor(1, 64, 1, 64), tensor(1, 64, 1, 64)
    one = convolution(x, 64)
    added = operation("add", tensor(1, 64, 1, 64), x=one.outputs[0], y=residual)
    other = operation("softmax", tensor(1, 64, 1, 64), x=one.outputs[0])
    assert read_steps([one, added, other])[1].activation_bytes == 3 * 64 * 64 * 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 64, 1, 1), 64 * 64), ((1, 64, 1, 32), 64 * 64), ((1, 64, 1, 33), 64 * 128), ((), 64), ((3, 0), 0)],
)
def test_the_last_axis_is_padded_to_64_bytes(shape, expected):
    assert padded_bytes(tensor(*shape)) == expected


def test_converting_types_at_the_edges_is_no_change_of_device():
    cast = operation("cast", tensor(1, 64), x=tensor(1, 64, dtype="int32"))
    other = operation("topk", tensor(1, 5), x=tensor(1, 32))
    inner = convolution(tensor(1, 32, 1, 32), 32)
    engine, conversion, work = Region("ane", (inner,)), Region("cpu", (cast,)), Region("cpu", (cast, other))
    assert device_changes([]) == 0
    assert device_changes([engine]) == 0
    assert device_changes([conversion, engine, conversion]) == 0
    assert device_changes([conversion]) == 0
    assert device_changes([work, engine, conversion]) == 1
    assert device_changes([engine, conversion, engine]) == 2


@pytest.mark.parametrize(
    ("stored_dtype", "chip", "bytes_counted"),
    [
        ("uint4", "M1", 0.5),
        ("int8", "M1", 2),
        ("int8", "A15", 0.5),
        ("int4", "M2", 2),
        ("int4", "A16", 0.5),
    ],
)
def test_weights_that_a_chip_does_not_take_compressed_count_dense(stored_dtype, chip, bytes_counted):
    one = convolution(tensor(1, 4000, 1, 32), 4000, stored=8_000_000, stored_dtype=stored_dtype)
    cost = estimate(program(one), [Region("ane", (one,))], get_chip(chip), PARAMETERS)
    weights = 16e6 * bytes_counted / (assume(get_chip(chip)).bandwidth_gbs * 1e6)
    arithmetic = one.flops / (0.5 * assume(get_chip(chip)).tflops * 1e9)
    assert weights > arithmetic + 0.01 or bytes_counted == 0.5
    if weights > arithmetic + 0.01:
        assert cost.parts.weights == pytest.approx(weights)
    else:
        assert cost.parts.weights == 0


def test_a_faster_chip_is_never_slower():
    one = convolution(tensor(1, 768, 1, 128), 3072)
    costs = [price(one, chip=chip).typical_ms for chip in ("M1", "M2", "M3", "M3 Max")]
    assert costs == sorted(costs, reverse=True)


def test_compressed_weights_are_never_slower():
    x = tensor(1, 4000, 1, 32)
    costs = [price(convolution(x, 4000, stored=size)).typical_ms for size in (32_000_000, 16_000_000, 8_000_000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[1]


def test_a_longer_sequence_is_never_faster():
    costs = [price(convolution(tensor(1, 768, 1, length), 768)).typical_ms for length in (16, 32, 64, 256, 1024, 4096)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


def test_unknown_extents_are_said_to_make_a_lower_bound():
    one = operation("softmax", tensor(1, None), x=tensor(1, None))
    assert any("lower bound" in assumption for assumption in price(one).assumptions)


def test_the_estimate_of_a_real_export_names_its_parts(tiny_package):
    from optimum_ane.analysis.operations import read_program
    from optimum_ane.analysis.partition import partition
    from optimum_ane.analysis.residency import place

    whole = read_program(tiny_package("distilbert", "text-classification") / "model.mlpackage")
    cost = estimate(whole, partition(place(whole)), get_chip("A15"))
    assert 0 < cost.low_ms < cost.typical_ms < cost.high_ms
    assert cost.bound in ("crossings", "dispatch")  # a model of two layers of 48 is nothing but overhead
    assert len(cost.operations) == len(place(whole))
    assert sum(getattr(cost.parts, name) for name in BOUNDS) == pytest.approx(cost.typical_ms)


def test_the_committed_parameters_are_within_reason():
    parameters = cost_parameters()
    assert parameters.linear_share < parameters.convolution_share <= 1
    assert parameters.low < 1 < parameters.high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"einsum_share": 1.5}, "einsum_share is 1.5, a share above 1"),
        ({"host_gbs": 0}, "host_gbs is 0, not a number above 0"),
        ({"host_gbs": "2"}, "host_gbs is '2'"),
        ({"low": 1.2}, "low is at most 1"),
        ({"colour": 1}, "missing or unknown: colour"),
    ],
)
def test_parameters_that_cannot_be_right_are_refused(changes, message):
    good = {name: getattr(PARAMETERS, name) for name in PARAMETERS.__dataclass_fields__}
    assert read_parameters(good) == PARAMETERS
    with pytest.raises(ValueError, match=message):
        read_parameters(good | changes)
