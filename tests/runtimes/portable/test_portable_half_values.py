"""Values that stay in fp16 between operations: the same bits as values that are rounded and carried in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from portable_programs import save_program

from optimum_ane.runtimes.portable import PortableSession, kernels

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal(shape).astype(np.float16) for shape in ((64, 48), (64, 48), (48, 64))]
BIAS = RNG.standard_normal(64).astype(np.float16)


def gated(x, y):
    """A gated feed-forward, a residual, and moves of all kinds between them."""
    gate = mb.silu(x=mb.linear(x=x, weight=WEIGHTS[0], bias=BIAS))
    product = mb.mul(x=gate, y=mb.linear(x=x, weight=WEIGHTS[1]))
    residual = mb.add(x=x, y=mb.linear(x=product, weight=WEIGHTS[2]))
    turned = mb.transpose(x=residual, perm=[0, 2, 1])
    first, second = mb.split(x=turned, axis=1, num_splits=2)
    joined = mb.concat(values=(mb.mul(x=second, y=np.float16(-1.5)), first), axis=1)
    mixed = mb.concat(values=(joined, mb.transpose(x=y, perm=[0, 2, 1])), axis=1)
    part = mb.slice_by_index(x=mixed, begin=[0, 8, 0], end=[1, 72, 40])
    sums = mb.reduce_sum(x=mb.sub(x=part, y=mb.exp(x=mb.reshape(x=part, shape=[1, 64, 40]))), axes=[1])
    return mb.tile(x=mb.expand_dims(x=sums, axes=[1]), reps=[1, 2, 1]), joined, mb.greater(x=part, y=np.float16(0))


def given(rows):
    return {name: RNG.standard_normal((1, rows, 48)).astype(np.float16) for name in ("x", "y")}


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu_of_fp16_is_that_of_float32_rounded_once(tmp_path, mode):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = {"x": every[np.isfinite(every)][None, 1:]}  # an odd number of them

    def build(x):
        return mb.gelu(x=mb.mul(x=x, y=np.float16(1)), mode=mode)

    session = PortableSession(save_program(tmp_path / "g.mlpackage", build, values))
    seen, unseen = (next(iter(session.predict(values).values())) for _ in range(2))
    np.testing.assert_array_equal(seen.view(np.uint16), unseen.view(np.uint16))


@pytest.mark.parametrize("rows", [40])
def test_the_same_bits_whether_anybody_looks_or_not(tmp_path, rows):
    session = PortableSession(save_program(tmp_path / "h.mlpackage", gated, given(rows)))
    program = session._program
    counts = [sum(step.node.op == "cast" for step in steps) for steps in (program.steps, program._steps_unseen)]
    assert counts[0] < counts[1]
    values = given(rows)
    first, second, again = (session.predict(values) for _ in range(3))
    seen = session.predict(values, intermediates=["*"])
    for name, value in first.items():
        for other in (second, again, seen):
            np.testing.assert_array_equal(value, other[name])


def test_a_prediction_changes_neither_inputs_nor_constants(tmp_path):
    session = PortableSession(save_program(tmp_path / "h.mlpackage", gated, given(40)))
    values = given(40)
    before = {name: value.copy() for name, value in values.items()}
    results = [session.predict(values) for _ in range(3)]
    assert all(np.array_equal(values[name], before[name]) for name in values)
    assert all(np.array_equal(results[0][name], results[2][name]) for name in results[0])


def test_products_of_fp16_are_summed_in_float32_and_rounded_once():
    if not kernels._HAS_HALF:
        pytest.skip("this processor has no products of fp16")
    x, weight, bias = (torch.from_numpy(RNG.standard_normal(shape)).half() for shape in ((40, 700), (64, 700), (64,)))
    exact = x.double() @ weight.double().t() + bias.double()
    rows = kernels._packed_for_half(weight, bias)
    assert (rows.in_half(x) == exact.half()).double().mean() > 0.995  # the others lie between two, but for 1e-6
    torch.testing.assert_close(rows.call(x.float()).double(), exact, rtol=2**-11, atol=1e-4)


@pytest.mark.parametrize("has_half", [True, False])
def test_functions_of_few_and_many_rows_answer_alike(tmp_path, has_half, monkeypatch):
    monkeypatch.setattr(kernels, "_HAS_HALF", has_half and kernels._HAS_HALF)
    x = RNG.standard_normal((1, 40, 48)).astype(np.float16)

    def build(x):
        return mb.linear(x=x, weight=WEIGHTS[0], bias=BIAS)

    many = PortableSession(save_program(tmp_path / "m.mlpackage", build, {"x": x}))
    few = PortableSession(save_program(tmp_path / "f.mlpackage", build, {"x": x[:, :1]}))
    whole, one = (next(iter(s.predict({"x": v}).values())) for s, v in ((many, x), (few, x[:, :1])))
    exact = x.astype(np.float64) @ WEIGHTS[0].T.astype(np.float64) + BIAS
    np.testing.assert_allclose(whole, exact, rtol=2**-11, atol=1e-5)
    np.testing.assert_allclose(one, exact[:, :1], rtol=2**-11, atol=1e-5)
