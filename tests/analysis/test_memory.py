"""Memory, against numbers computed by hand."""

import coremltools as ct
import numpy as np
import pytest
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.memory import measure_memory
from optimum_ane.analysis.residency import place


def memory_of(build, target=ct.target.iOS17, states=None, **inputs):
    program = program_of(build, target, states, **inputs)
    return measure_memory(program, place(program))


def test_the_peak_is_what_is_alive_at_once():
    def build(x):  # 1 KiB each: x alone, then x and a, then a, b and x, then b and c
        a = mb.relu(x=x)
        b = mb.add(x=a, y=x)
        return mb.tanh(x=b)

    memory = memory_of(build, x="fp16 1 8 1 64")
    assert memory.peak_bytes == 3 * 1024
    assert memory.peak_at == "add_0"


def test_an_output_stays_alive_to_the_end():
    def build(x):
        first = mb.relu(x=x)
        return first, mb.tanh(x=mb.relu(x=mb.relu(x=x)))

    # first, and two of the chain at a time
    assert memory_of(build, x="fp16 1 8 1 64").peak_bytes == 3 * 1024


def test_a_last_axis_of_one_takes_32_times_the_memory():
    memory = memory_of(lambda x: mb.relu(x=x), x="fp16 1 8 64 1")
    assert memory.peak_bytes == 2 * 1024
    assert memory.padded_peak_bytes == 64 * 1024
    assert memory.padding_bytes == 2 * 31 * 1024
    assert [(p.name, p.factor) for p in memory.worst_padding] == [("relu_0", 32), ("x", 32)]


def test_a_last_axis_of_48_is_padded_to_64():
    memory = memory_of(lambda x: mb.relu(x=x), x="fp16 1 8 2 48")
    assert memory.worst_padding[0].bytes == 8 * 2 * 48 * 2
    assert memory.worst_padding[0].padded_bytes == 8 * 2 * 64 * 2


def test_what_only_the_cpu_touches_is_not_padded():
    memory = memory_of(lambda x: mb.add(x=x, y=x), x="int32 1 8 64 1")
    assert memory.padding_bytes == 0
    assert memory.padded_peak_bytes == memory.peak_bytes == 2 * 8 * 64 * 4


def test_weights_are_told_by_element_type():
    def build(x):
        small = mb.linear(x=x, weight=np.ones((16, 64), np.float16), bias=np.ones(16, np.float16))
        return mb.linear(x=mb.cast(x=small, dtype="fp32"), weight=np.ones((9, 16), np.float32))

    memory = memory_of(build, x="fp16 1 64")
    assert [(g.dtype, g.count, g.stored_bytes) for g in memory.weights] == [
        ("float16", 2, 2 * 16 * 65),
        ("float32", 1, 4 * 9 * 16),
    ]
    assert memory.weight_bytes == memory.dense_weight_bytes == 2 * 16 * 65 + 4 * 9 * 16


def test_states_and_caches_are_held():
    def build(x, key_cache, kv):
        return mb.add(x=mb.read_state(input=kv), y=mb.add(x=x, y=key_cache), name="new_key_cache")

    memory = memory_of(build, ct.target.iOS18, {"kv": "fp16 1 4 1 64"}, x="fp16 1 4 1 64", key_cache="fp16 1 4 1 64")
    assert [(h.name, h.is_state, h.bytes) for h in memory.held] == [("kv", True, 512), ("key_cache", False, 512)]


@pytest.mark.parametrize(
    ("cache", "rows", "held"),
    [("1 2 8 32", "1 2 1 32", 1), ("1 2 8 32", "1 1 1 32", 0), ("1 2 8 32", "1 2 16 32", 0)],
)
def test_a_cache_of_which_new_rows_come_back_is_held(cache, rows, held):
    def build(x, kv_cache):
        return mb.relu(x=x, name="new_rows"), mb.reduce_sum(x=kv_cache, axes=[0, 1, 2, 3])

    memory = memory_of(build, x=f"fp16 {rows}", kv_cache=f"fp16 {cache}")
    assert [(each.name, each.is_state) for each in memory.held] == [("kv_cache", False)] * held


def test_a_state_that_is_written_in_place_is_no_activation():
    def build(x, kv):
        after = mb.slice_update(x=mb.read_state(input=kv), update=x, begin=[0, 0, 0, 0], end=[1, 4, 1, 8])
        return mb.relu(
            x=mb.slice_by_size(x=mb.coreml_update_state(state=kv, value=after), begin=[0] * 4, size=[1, 4, 1, 8])
        )

    memory = memory_of(build, ct.target.iOS18, {"kv": "fp16 1 4 1 4096"}, x="fp16 1 4 1 8")
    assert memory.peak_bytes <= 3 * 4 * 8 * 2
