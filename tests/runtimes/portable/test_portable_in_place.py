"""Updates of states without copies: where they are made, where they must not be, and that nobody sees a difference."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import stateful

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.in_place import NEW_MEMORY
from optimum_ane.runtimes.portable.registry import OPERATIONS

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
ROWS, WIDTH = 3, 2
X = np.array([[1, 2]], np.float16)


def write(s, value):
    return Builder.coreml_update_state(state=s, value=value)


def read(s):
    return Builder.read_state(input=s)


def times(x, factor):
    return Builder.mul(x=x, y=np.float16(factor))


def row(x, update, place=0):
    """Writes one row."""
    return Builder.slice_update(x=x, update=update, begin=[place, 0], end=[place + 1, WIDTH])


def first(x):
    return Builder.slice_by_index(x=x, begin=[0, 0], end=[1, WIDTH])


@pytest.fixture
def ran(tmp_path):
    """Runs a program on a state of ones; returns the outputs, the state's rows, and whether it kept its memory."""

    def go(build, states=("s",)):
        path = stateful(tmp_path / "m.mlpackage", build, dict.fromkeys(states, (ROWS, WIDTH)), x=X)
        session = PortableSession(path)
        state = session.make_state()
        results = []
        for _ in range(2):  # the first prediction with shapes that are new is watched, and takes another road
            for name in states:
                state.write(name, np.ones((ROWS, WIDTH), np.float16))
            before = [state.cells[name].tensor for name in states]
            outputs = list(session.predict({"x": X}, state).values())
            kept = [a is state.cells[name].tensor for a, name in zip(before, states, strict=True)]
            results.append(([o.tolist() for o in outputs], [state.read(name)[:, 0].tolist() for name in states], kept))
        assert results[0] == results[1]
        return results[0]

    return go


def test_a_decoders_update_is_written_into_the_state(ran):
    """Each row that is written is read by what follows, before the next is written."""

    def build(x, s):
        total = first(write(s, row(read(s), x)))
        second = write(s, row(read(s), Builder.add(x=total, y=x), 1))
        return Builder.reduce_sum(x=second, axes=[0])

    assert ran(build) == ([[4, 7]], [[1, 2, 1]], [True])


def test_a_value_that_is_read_later_keeps_what_it_was(ran):
    """The counter-example: in place, the first row of what was read before would be 2."""

    def build(x, s):
        before = read(s)
        write(s, row(before, Builder.add(x=x, y=x)))
        return Builder.identity(x=first(before))

    assert ran(build) == ([[[1, 1]]], [[2, 1, 1]], [False])


@pytest.mark.parametrize(
    "window",
    [
        lambda v: Builder.transpose(x=first(v), perm=[1, 0]),
        lambda v: Builder.reshape(x=v, shape=[ROWS * WIDTH]),
        lambda v: Builder.split(x=v, axis=0, num_splits=ROWS)[0],
        lambda v: Builder.cast(x=Builder.cast(x=v, dtype="fp16"), dtype="fp16"),
    ],
)
def test_a_window_that_is_returned_keeps_what_it_was(ran, window):
    def build(x, s):
        seen = window(read(s))
        write(s, row(read(s), times(x, 5)))
        return Builder.identity(x=seen)

    outputs, states, kept = ran(build)
    assert set(np.ravel(outputs)) == {1}
    assert (states, kept) == ([[5, 1, 1]], [False])


def test_a_computed_value_is_no_window(ran):
    def build(x, s):
        sum_ = Builder.reduce_sum(x=read(s), axes=[0])
        write(s, row(read(s), times(x, 5)))
        return Builder.identity(x=sum_)

    assert ran(build) == ([[3, 3]], [[5, 1, 1]], [True])


def test_rows_that_are_moved_within_the_state(ran):
    def build(x, s):
        one = write(s, row(read(s), times(x, 2)))
        rows = Builder.slice_by_index(x=one, begin=[0, 0], end=[ROWS - 1, WIDTH])
        return write(s, Builder.slice_update(x=one, update=rows, begin=[1, 0], end=[ROWS, WIDTH]))

    outputs, states, kept = ran(build)
    assert (outputs[0], states, kept) == ([[2, 4], [2, 4], [1, 1]], [[2, 2, 1]], [False])


def test_a_read_between_update_and_write_sees_the_old_value(ran):
    def build(x, s):
        updated = row(read(s), times(x, 5))
        between = read(s)
        sum_ = Builder.reduce_sum(x=between, axes=[0])
        write(s, updated)
        return sum_

    assert ran(build) == ([[3, 3]], [[5, 1, 1]], [False])


def test_an_update_of_a_value_that_was_replaced(ran):
    """What was read is no longer the state's when the update is made."""

    def build(x, s):
        before = read(s)
        write(s, np.full((ROWS, WIDTH), 7, np.float16))
        return write(s, row(before, times(x, 5)))

    outputs, states, _ = ran(build)
    assert (outputs[0][0], states) == ([5, 10], [[5, 1, 1]])


def test_an_update_that_is_never_written(ran):
    def build(x, s):
        changed = row(read(s), times(x, 5))
        return Builder.reduce_sum(x=changed, axes=[0]), Builder.reduce_sum(x=read(s), axes=[0])

    assert ran(build) == ([[7, 12], [3, 3]], [[1, 1, 1]], [True])


def test_one_update_for_two_states(ran):
    """Each has memory of its own afterwards: what the first does next, the second does not see."""

    def build(x, s, t):
        both = row(read(s), times(x, 5))
        write(s, both)
        write(t, both)
        write(s, row(read(s), times(x, 9), 1))
        return Builder.reduce_sum(x=read(t), axes=[0])

    outputs, states, _ = ran(build, ("s", "t"))
    assert (outputs, states) == ([[7, 12]], [[5, 9, 1], [5, 1, 1]])


def test_a_copied_update_for_two_states(ran):
    def build(x, s, t):
        both = row(np.full((ROWS, WIDTH), 3, np.float16), times(x, 5))
        write(s, both)
        write(t, both)
        write(s, row(read(s), times(x, 9), 1))
        return Builder.reduce_sum(x=read(t), axes=[0])

    outputs, states, _ = ran(build, ("s", "t"))
    assert (outputs, states) == ([[11, 16]], [[5, 9, 3], [5, 3, 3]])


@pytest.mark.parametrize("taken", [0, 5])
def test_an_update_under_a_condition(ran, taken):
    """The surroundings read the old value after it; then they update in turn, in place."""

    def build(x, s):
        before = read(s)

        def yes():
            return Builder.reduce_sum(x=write(s, row(read(s), times(x, 5))), axes=[0])

        def no():
            return Builder.reduce_sum(x=before, axes=[0])

        pred = Builder.less(x=np.int32(taken), y=Builder.reduce_sum(x=Builder.cast(x=x, dtype="int32")))
        seen = Builder.cond(pred=pred, _true_fn=yes, _false_fn=no)
        old = Builder.reduce_sum(x=before, axes=[0])
        write(s, row(read(s), seen_row(seen), 1))
        return old, seen

    def seen_row(seen):
        return Builder.expand_dims(x=seen, axes=[0])

    expected = ([[3, 3], [7, 12]], [[5, 7, 1]]) if taken < 3 else ([[3, 3], [3, 3]], [[1, 3, 1]])
    assert ran(build)[:2] == expected


def test_heads_that_are_joined_read_before_an_update_that_stands_between_them(tmp_path, rng):
    """Joined, the heads of an attention are computed where the last of them stands: after the update of the keys."""
    heads, width, length = 2, 3, 4

    def build(x, s):
        keys = Builder.split(x=read(s), axis=3, num_splits=heads)
        queries = Builder.split(x=Builder.transpose(x=x, perm=[0, 3, 2, 1]), axis=1, num_splits=heads)
        values = Builder.split(x=Builder.transpose(x=x, perm=[0, 3, 2, 1]), axis=1, num_splits=heads)
        mask = Builder.mul(x=Builder.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, length, 1, 1]), y=np.float16(0))
        results = []
        for key, query, value in zip(keys, queries, values, strict=True):
            scores = Builder.einsum(values=(key, query), equation="bkhc,bchq->bkhq")
            weights = Builder.softmax(x=Builder.add(x=scores, y=mask), axis=1)
            results.append(Builder.einsum(values=(value, weights), equation="bchk,bkhq->bchq"))
        write(s, Builder.slice_update(x=read(s), update=x, begin=[0] * 4, end=[1, length, 1, heads * width]))
        return Builder.concat(values=results, axis=1)

    shape = (1, length, 1, heads * width)
    x, kept = (rng.standard_normal(shape).astype(np.float16) for _ in range(2))
    session = PortableSession(stateful(tmp_path / "m.mlpackage", build, {"s": shape}, x=x))
    state = session.make_state()
    answers = []
    for _ in range(3):
        state.write("s", kept)
        (answer,) = session.predict({"x": x}, state).values()
        answers.append(answer)
        np.testing.assert_array_equal(state.read("s"), x)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_an_observer_keeps_what_it_saw(tmp_path):
    def build(x, s):
        one = write(s, row(read(s), x))
        return Builder.reduce_sum(x=write(s, row(one, times(x, 3))), axes=[0])

    session = PortableSession(stateful(tmp_path / "m.mlpackage", build, {"s": (ROWS, WIDTH)}, x=X))
    state, seen = session.make_state(), []
    session.predict({"x": X}, state, observer=lambda step, value: seen.append((step.node.op, value)))
    updates = [value[0, 0].item() for op, value in seen if op in ("slice_update", "read_state")]
    assert updates == [0, 1, 1, 3, 3]
    values = session.predict({"x": X}, state, intermediates=["*"])
    assert [v[0, 0] for name, v in values.items() if name.startswith("slice_update")] == [1, 3]


def test_what_was_read_is_kept_and_what_is_copied_stays_apart(tmp_path):
    def build(x, s):
        return Builder.reduce_sum(x=write(s, row(read(s), x)), axes=[0])

    session = PortableSession(stateful(tmp_path / "m.mlpackage", build, {"s": (ROWS, WIDTH)}, x=X))
    state = session.make_state()
    before, copied = state.read("s"), state.copy()
    session.predict({"x": X}, state)
    assert before.max() == copied.read("s").max() == 0
    session.predict({"x": X * 3}, copied)
    assert (state.read("s")[0, 0], copied.read("s")[0, 0]) == (1, 3)


def test_results_in_new_memory():
    """No operation that is said to put its result into new memory returns a window into an operand."""
    a = torch.rand(1, 4, 4, 4)
    arguments = {
        **{name: {"values": (a,), "axis": 1} for name in ("concat", "stack")},
        **{name: {"x": a, "axes": [0]} for name in NEW_MEMORY if name.startswith("reduce_")},
        "conv": {"x": a, "weight": torch.eye(4)[:, :, None, None]},
        "linear": {"x": a, "weight": torch.eye(4)},
        "gather": {"x": a, "indices": torch.arange(1), "axis": 0},
        "layer_norm": {"x": a, "axes": [0]},
        "select": {"cond": torch.ones(1, dtype=torch.bool), "a": a, "b": a},
        "rsqrt": {"x": a, "epsilon": 0.0},
    }
    for name in NEW_MEMORY:
        operation = OPERATIONS[name]
        operands = arguments.get(name) or dict.fromkeys(("x", "y") if "y" in operation.roles else ("x",), a)
        if all(role.value == "tensor" for role in operation.roles.values()):
            result = operation.function(*operands.values())
        else:
            result = operation.function(**operands)
        assert result.untyped_storage().data_ptr() != a.untyped_storage().data_ptr(), name


@pytest.mark.usefixtures("single_thread")
def test_random_programs_with_states(tmp_path):
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("fuzz_portable_states", SCRIPTS / "fuzz_portable_states.py")
        fuzz = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = fuzz  # its dataclasses look themselves up
        spec.loader.exec_module(fuzz)
        assert sum(fuzz.check(seed, tmp_path) for seed in range(14)) > 3
    finally:
        sys.path.remove(str(SCRIPTS))
        sys.modules.pop("fuzz_portable_states", None)
