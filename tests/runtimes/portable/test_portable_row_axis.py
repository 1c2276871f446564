"""Several rows at once: only where a row cannot see another, and then with the answers of each by itself."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from portable_programs import save_module, save_program
from test_portable_session import EXAMPLES, TwoInputs
from tiny_models import ARCHITECTURES, TASKS, make_inputs, make_original

from optimum_ane.errors import InputError
from optimum_ane.runtimes.portable import PortableSession, row_axis

WIDTH, LENGTH = 4, 3
RELATIVE = [name for name in ARCHITECTURES if name.startswith("deberta-v2") and name != "deberta-v2:absolute"]


@pytest.fixture
def load(tmp_path):
    """Saves a program of one input (1, 4, 1, 3), or of another shape, and loads it."""

    def load(build, shape=(1, WIDTH, 1, LENGTH), dtype=np.float32, target=ct.target.iOS17):
        path = save_program(tmp_path / "m.mlpackage", build, {"x": np.zeros(shape, dtype)}, target)
        return PortableSession(path)

    return load


def together_and_apart(session, inputs):
    """The first output for all rows at once, and row by row."""
    rows = len(next(iter(inputs.values())))
    wide = session.with_rows(rows)
    assert next(iter(wide.inputs.values())).shape[0] == rows
    (together,) = list(wide.predict(inputs).values())[:1]
    apart = [
        next(iter(session.predict({name: value[row : row + 1] for name, value in inputs.items()}).values()))
        for row in range(rows)
    ]
    return together, np.concatenate(apart)


def constant(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


APART = {
    "gelu": lambda x: mb.gelu(x=x),
    "clip": lambda x: mb.clip(x=x, alpha=-0.5, beta=0.5),
    "a scalar added": lambda x: mb.add(x=x, y=2.0),
    "a vector added": lambda x: mb.add(x=x, y=constant((1, LENGTH))),
    "a tensor of one row added": lambda x: mb.add(x=constant((1, WIDTH, 1, 1)), y=x),
    "itself added": lambda x: mb.add(x=x, y=x),
    "select": lambda x: mb.select(cond=mb.greater(x=x, y=0.0), a=x, b=constant((1, 1, 1, LENGTH))),
    "softmax": lambda x: mb.softmax(x=x, axis=1),
    "layer_norm": lambda x: mb.layer_norm(x=x, axes=[1], gamma=constant(WIDTH), beta=constant(WIDTH, 1)),
    "reduce_sum": lambda x: mb.reduce_sum(x=x, axes=[1, -1], keep_dims=False),
    "cumsum": lambda x: mb.cumsum(x=x, axis=3),
    "transpose": lambda x: mb.transpose(x=x, perm=[0, 3, 2, 1]),
    "expand_dims": lambda x: mb.expand_dims(x=mb.squeeze(x=x, axes=[2]), axes=[1, -1]),
    "squeeze": lambda x: mb.squeeze(x=x, axes=[2]),
    "split and concat": lambda x: mb.concat(values=mb.split(x=x, num_splits=2, axis=1)[::-1], axis=1),
    "slice": lambda x: mb.slice_by_index(
        x=x, begin=[0, 1, 0, 0], end=[1, 3, 1, 3], end_mask=[True, False, True, True]
    ),
    "conv": lambda x: mb.conv(x=x, weight=constant((5, WIDTH, 1, 1)), bias=constant(5)),
    "linear": lambda x: mb.linear(x=x, weight=constant((5, LENGTH))),
    "einsum": lambda x: mb.einsum(
        values=(x, mb.transpose(x=x, perm=[0, 3, 2, 1])), equation="bchw,bwhu->bchu"
    ),
    "a constant of no rows": lambda x: mb.mul(x=x, y=mb.exp(x=constant((1, WIDTH, 1, 1)))),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_rows_that_do_not_see_each_other_run_at_once(name, load, rng):
    session = load(APART[name])
    x = rng.standard_normal((5, WIDTH, 1, LENGTH)).astype(np.float32)
    together, apart = together_and_apart(session, {"x": x})
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3  # other rows, other answers


@pytest.mark.parametrize("axis", [0, -1])
def test_rows_of_a_table_are_picked_for_each(axis, load, rng):
    table = constant((10, WIDTH))
    session = load(lambda x: mb.gather(x=table if axis == 0 else table.T, indices=x, axis=axis), (1, 3), np.int32)
    ids = rng.integers(0, 4 if axis else 10, (4, 3)).astype(np.int32)
    if axis == 0:
        together, apart = together_and_apart(session, {"x": ids})
        assert np.array_equal(together, apart)
    else:
        assert session.with_rows(4) is session


MIXED = {
    "softmax over rows": lambda x: mb.softmax(x=x, axis=0),
    "softmax over rows, counted from the end": lambda x: mb.softmax(x=x, axis=-4),
    "sum over rows": lambda x: mb.reduce_sum(x=x, axes=[0, 1], keep_dims=True),
    "sum over everything": lambda x: mb.reduce_sum(x=x, keep_dims=True),
    "norm over rows": lambda x: mb.layer_norm(x=x, axes=[0, 1]),
    "running sum over rows": lambda x: mb.cumsum(x=x, axis=0),
    "rows last": lambda x: mb.transpose(x=x, perm=[2, 1, 0, 3]),
    "an axis before the rows": lambda x: mb.expand_dims(x=x, axes=[0]),
    "rows squeezed": lambda x: mb.squeeze(x=x, axes=[0, 2]),
    "all ones squeezed": lambda x: mb.squeeze(x=x),
    "reshape": lambda x: mb.reshape(x=x, shape=[1, WIDTH * LENGTH]),
    "rows joined": lambda x: mb.slice_by_index(
        x=mb.concat(values=[x, x], axis=0), begin=[0] * 4, end=[1, WIDTH, 1, LENGTH]
    ),
    "joined with what has no rows": lambda x: mb.concat(values=[x, constant((1, 1, 1, LENGTH))], axis=1),
    "the first row": lambda x: mb.slice_by_index(x=x, begin=[0] * 4, end=[1, 2, 1, LENGTH]),
    "the last row": lambda x: mb.slice_by_index(
        x=x, begin=[-1, 0, 0, 0], end=[0] * 4, end_mask=[True] * 4
    ),
    "the rows backwards": lambda x: mb.slice_by_index(
        x=x, begin=[0] * 4, end=[0] * 4, stride=[-1, 1, 1, 1], begin_mask=[True] * 4, end_mask=[True] * 4
    ),
    "a row that is picked": lambda x: mb.gather(x=x, indices=np.array([0], np.int32), axis=0),
    "a row in place of a weight": lambda x: mb.conv(
        x=constant((1, WIDTH, 1, LENGTH)), weight=mb.transpose(x=x, perm=[0, 1, 2, 3])
    ),
    "a product over rows": lambda x: mb.einsum(
        values=(mb.transpose(x=x, perm=[2, 1, 0, 3]), mb.transpose(x=x, perm=[2, 3, 0, 1])), equation="bchw,bwhu->bchu"
    ),
    "a row that broadcasts over another axis": lambda x: mb.add(
        x=x, y=mb.reduce_sum(x=x, axes=[1, 2], keep_dims=False)
    ),
    "what has more axes": lambda x: mb.add(x=x, y=constant((2, 1, WIDTH, 1, LENGTH))),
    "an operation that is not known": lambda x: mb.l2_norm(x=x),
    "tile": lambda x: mb.tile(x=x, reps=[1, 2, 1, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_may_see_each_other_run_as_declared(name, load):
    session = load(MIXED[name])
    assert session.with_rows(5) is session


def test_a_constant_that_has_the_rows_of_the_declaration_keeps_them(load):
    session = load(lambda x: mb.add(x=x, y=constant((2, WIDTH, 1, 1))), (2, WIDTH, 1, LENGTH))
    assert session.with_rows(5) is session
    session = load(lambda x: mb.add(x=x, y=constant((1, WIDTH, 1, 1))), (2, WIDTH, 1, LENGTH))
    assert session.with_rows(5).inputs["x"].shape == (5, WIDTH, 1, LENGTH)
    assert session.with_rows(2) is session
    assert session.with_rows(1) is session


def test_an_answer_that_has_no_rows_is_no_answer_of_a_row(load):
    session = load(lambda x: (mb.exp(x=x), mb.exp(x=constant((1, 2)))))
    assert session.with_rows(5) is session


def test_inputs_of_different_kinds_of_first_axes_are_no_rows(tmp_path):
    session = PortableSession(save_module(tmp_path / "m.mlpackage", TwoInputs(), EXAMPLES))
    assert session.with_rows(4) is session  # a row of scale is a number for all


def test_flexible_shapes_run_as_declared(tmp_path):
    shapes = [ct.TensorType("ids", (1, ct.RangeDim(1, 9)), dtype=np.int32)]
    path = save_module(tmp_path / "m.mlpackage", torch.nn.Embedding(10, 4), {"ids": EXAMPLES["ids"]}, inputs=shapes)
    session = PortableSession(path)
    assert session.with_rows(4) is session


class Total(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, LENGTH))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 1.0


def test_states_belong_to_the_rows_of_the_declaration(tmp_path):
    state = ct.StateType(wrapped_type=ct.TensorType(shape=(1, LENGTH), dtype=np.float16), name="total")
    options = {"states": [state], "minimum_deployment_target": ct.target.iOS18}
    session = PortableSession(save_module(tmp_path / "m.mlpackage", Total(), {"x": torch.ones(1, LENGTH)}, **options))
    assert session.states
    assert session.with_rows(4) is session


def test_no_more_run_at_once_than_the_limits_say(load, monkeypatch):
    build = APART["gelu"]
    assert load(build).with_rows(100).inputs["x"].shape[0] == row_axis.MOST_ROWS
    monkeypatch.setattr(row_axis, "MOST_ELEMENTS", 3 * WIDTH * LENGTH + 1)
    assert load(build).with_rows(100).inputs["x"].shape[0] == 3
    monkeypatch.setattr(row_axis, "MOST_ELEMENTS", WIDTH * LENGTH - 1)
    session = load(build)
    assert session.with_rows(100) is session


def test_a_wide_session_declares_its_shape_and_refuses_others(load):
    session = load(APART["reduce_sum"])
    wide = session.with_rows(3)
    assert wide.inputs["x"].shape == (3, WIDTH, 1, LENGTH)
    assert next(iter(wide.outputs.values())).shape == (3, 1)
    assert session.inputs["x"].shape == (1, WIDTH, 1, LENGTH)
    with pytest.raises(InputError, match=r"takes shape \(3, 4, 1, 3\) and got \(1, 4, 1, 3\)"):
        wide.predict({"x": np.zeros((1, WIDTH, 1, LENGTH), np.float32)})
    with pytest.raises(InputError, match=r"takes shape \(1, 4, 1, 3\) and got \(3, 4, 1, 3\)"):
        session.predict({"x": np.zeros((3, WIDTH, 1, LENGTH), np.float32)})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_but_relative_attention_takes_several_rows(name, tiny_package):
    session = PortableSession(tiny_package(name, "text-classification") / "model.mlpackage")
    if name in RELATIVE:
        assert session.with_rows(6) is session
        return
    inputs = make_inputs(make_original(name, "text-classification"), rows=6, length=16)
    together, apart = together_and_apart(session, {spec: inputs[spec].int().numpy() for spec in session.inputs})
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_several_rows(task, tiny_package):
    session = PortableSession(tiny_package("bert", task) / "model.mlpackage")
    inputs = make_inputs(make_original("bert", task), rows=6, length=16)
    arrays = {name: inputs[name].int().numpy() for name in session.inputs}
    together, apart = together_and_apart(session, arrays)
    assert np.array_equal(together, apart)
    values = session.with_rows(6).predict(arrays, intermediates=["hidden_state_*"])
    assert {value.shape[0] for name, value in values.items() if name.startswith("hidden_state_")} == {6}
