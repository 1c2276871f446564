"""Norms and attentions computed in one call: what they answer, and where they must not be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from portable_programs import save_program, stateful

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.fusions import attention as fused_attention

HIDDEN = -3e4
HEADS, QUERIES, ROWS, WIDTH = 2, 16, 64, 8


def session_of(path, precision="program"):
    """A session, and how many operations it spares where nobody looks."""
    session = PortableSession(path, precision=precision)
    unseen = [step for step in session._program._steps_unseen if step.node.outputs]  # conversions have none
    return session, len(session._program.steps) - len(unseen)


def answers(session, given):
    """The first prediction runs each operation by itself, the second those that go together."""
    return [next(iter(session.predict(given).values())) for _ in range(2)]


def norm(x, axis=-1, epsilon=1e-2, gamma=None, half="slice_by_size", negative=None, axes=None):
    negative = mb.mul(x=x, y=np.float16(-1)) if negative is None else negative(x)
    joined = mb.concat(values=(x, negative), axis=axis)
    normed = mb.layer_norm(x=joined, axes=axes or [axis], gamma=gamma, epsilon=np.float16(epsilon))
    shape = [*x.shape]
    if half == "slice_by_size":
        return mb.slice_by_size(x=normed, begin=[0] * len(shape), size=shape)
    if half == "slice_by_index":
        return mb.slice_by_index(x=normed, begin=[0] * len(shape), end=shape)
    if half == "second":
        begin = [shape[i] if i == axis % len(shape) else 0 for i in range(len(shape))]
        return mb.slice_by_size(x=normed, begin=begin, size=shape)
    first, second = mb.split(x=normed, axis=axis, num_splits=2)
    return first if half == "split" else mb.concat(values=(second, first), axis=0)


GAMMA = np.linspace(0.5, 2, 2 * WIDTH).astype(np.float16)


@pytest.mark.parametrize("precision", ["program", "float32"])
@pytest.mark.parametrize(
    ("axis", "half", "gamma"), [(-1, "slice_by_size", GAMMA), (1, "split", None), (1, "slice_by_index", GAMMA)]
)
def test_a_norm_over_a_value_and_its_negative_divides_by_the_root_of_the_mean_square(
    tmp_path, precision, axis, half, gamma
):
    shape = (1, 5, WIDTH) if axis == -1 else (1, WIDTH, 1, 5)
    given = {"x": (100 * np.random.default_rng(0).standard_normal(shape)).astype(np.float16)}
    path = save_program(tmp_path / "n.mlpackage", lambda x: norm(x, axis, gamma=gamma, half=half), given)
    session, fewer = session_of(path, precision)
    assert fewer == 3
    x = np.moveaxis(given["x"].astype(np.float64), axis, -1)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * (1 if gamma is None else gamma[:WIDTH])
    for answer in answers(session, given):
        np.testing.assert_allclose(np.moveaxis(answer, axis, -1), expected, rtol=1e-3, atol=1e-5)


NO_NORMS = {
    "the second half": lambda x: norm(x, half="second"),
    "both halves": lambda x: norm(x, half="both"),
    "twice the value": lambda x: norm(x, negative=lambda x: mb.mul(x=x, y=np.float16(-2))),
    "the negative of another value": lambda x: norm(x, negative=lambda x: mb.mul(x=mb.exp(x=x), y=np.float16(-1))),
    "joined along another axis": lambda x: mb.slice_by_size(
        x=mb.layer_norm(x=mb.concat(values=(x, mb.mul(x=x, y=np.float16(-1))), axis=1), axes=[-1]),
        begin=[0, 0, 0],
        size=[*x.shape],
    ),
    "over two axes": lambda x: norm(x, axes=[1, 2]),
}


@pytest.mark.parametrize("what", NO_NORMS)
def test_what_is_no_such_norm_is_left_alone(tmp_path, what):
    given = {"x": np.random.default_rng(0).standard_normal((1, 5, WIDTH)).astype(np.float16)}
    session, fewer = session_of(save_program(tmp_path / "n.mlpackage", NO_NORMS[what], given))
    assert fewer == 0
    first, second = answers(session, given)
    np.testing.assert_array_equal(first, second)


def test_a_joined_value_that_is_read_elsewhere_is_kept(tmp_path):
    def build(x):
        joined = mb.concat(values=(x, mb.mul(x=x, y=np.float16(-1))), axis=2)
        normed = mb.layer_norm(x=joined, axes=[2], epsilon=np.float16(1e-2))
        first = mb.slice_by_size(x=normed, begin=[0, 0, 0], size=[1, 5, WIDTH])
        return mb.add(x=mb.concat(values=(first, first), axis=2), y=joined)

    given = {"x": np.random.default_rng(0).standard_normal((1, 5, WIDTH)).astype(np.float16)}
    session, fewer = session_of(save_program(tmp_path / "n.mlpackage", build, given))
    assert fewer == 0
    np.testing.assert_array_equal(*answers(session, given))


def attention(q, k, v, mask, axis=-1, transposed=True, seen=False):
    scores = mb.add(x=mb.matmul(x=q, y=k, transpose_y=transposed), y=mask)
    weights = mb.softmax(x=scores, axis=axis)
    result = mb.matmul(x=weights, y=v)
    return (result, weights) if seen else result


def arrays(seen=range(20), scale=1.0, queries=QUERIES, opened=0.0):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, HEADS, queries, WIDTH))
    k, v = rng.standard_normal((2, 1, HEADS, ROWS, WIDTH))
    mask = np.full((1, 1, queries, ROWS), HIDDEN)
    mask[..., list(seen)] = opened
    mask[:, :, 0, list(seen)[1:]] = HIDDEN  # the first query sees one row
    given = {"q": scale * q, "k": scale * k, "v": v, "mask": mask}
    return {name: value.astype(np.float16) for name, value in given.items()}


def expected_of(given):
    q, k, v, mask = (torch.from_numpy(given[name]).double() for name in ("q", "k", "v", "mask"))
    return ((q @ k.mT + mask).softmax(-1) @ v).numpy()


@pytest.fixture
def spans(monkeypatch):
    """Records whether the rows outside of a span were left out."""
    taken = []
    check = fused_attention._weighs_nothing

    def recorded(*arguments):
        taken.append(check(*arguments))
        return taken[-1]

    monkeypatch.setattr(fused_attention, "_weighs_nothing", recorded)
    return taken


@pytest.mark.parametrize("precision", ["program", "float32"])
@pytest.mark.parametrize("transposed", [True, False])
def test_an_attention_over_the_rows_that_are_seen(tmp_path, precision, transposed, spans):
    given = arrays()
    columns = given if transposed else given | {"k": np.ascontiguousarray(given["k"].swapaxes(2, 3))}
    path = save_program(
        tmp_path / "a.mlpackage", lambda q, k, v, mask: attention(q, k, v, mask, transposed=transposed), columns
    )
    session, fewer = session_of(path, precision)
    assert fewer == 2  # three of four, and one that finds the span
    for answer in answers(session, columns):
        np.testing.assert_allclose(answer, expected_of(given), atol=4e-3)
    assert spans == [True]


def test_a_window_in_the_middle(tmp_path, spans):
    given = arrays(seen=range(35, 41))
    session, _ = session_of(save_program(tmp_path / "a.mlpackage", attention, given))
    for answer in answers(session, given):
        np.testing.assert_allclose(answer, expected_of(given), atol=4e-3)
    assert spans == [True]


def test_rows_that_are_not_finite_are_not_left_out(tmp_path, spans):
    """0 times infinity is no number, whoever computes it."""
    given = arrays()
    given["v"][:, :, 50] = np.inf
    session, _ = session_of(save_program(tmp_path / "a.mlpackage", attention, given))
    first, second = answers(session, given)
    assert np.isnan(first).all()
    assert np.isnan(second).all()
    assert spans == [False]


def test_scores_that_outweigh_the_mask_are_not_left_out(tmp_path, spans):
    """The counter-example: a hidden row with a score of 40,000 takes all the weight."""
    given = arrays()
    given["q"][:] = 70.7
    given["k"][:, :, 60] = 70.7
    session, _ = session_of(save_program(tmp_path / "a.mlpackage", attention, given))
    for answer in answers(session, given):
        np.testing.assert_allclose(answer[:, :, 1], given["v"][:, :, 60], atol=1e-3)
    assert spans == [False]


@pytest.mark.parametrize("rows", ["hidden from one query", "hidden a little"])
def test_rows_that_the_mask_does_not_hide_are_not_left_out(tmp_path, rows, spans):
    given = arrays()
    if rows == "hidden from one query":
        given["mask"][:, :, 3] = HIDDEN  # all rows alike: their scores decide
    else:
        given["mask"][given["mask"] < 0] = -1500
        given["q"], given["k"] = 12 * given["q"], 12 * given["k"]
    # In fp16 scores beside −30,000 are multiples of 16.
    session, _ = session_of(save_program(tmp_path / "a.mlpackage", attention, given), "float32")
    for answer in answers(session, given):
        np.testing.assert_allclose(answer, expected_of(given), atol=2e-2)
    assert not any(spans)


LEFT_ALONE = {
    "weights that are read elsewhere": lambda q, k, v, mask: attention(q, k, v, mask, seen=True),
    "a softmax over queries": lambda q, k, v, mask: attention(q, k, v, mask, axis=2),
    "scores and mask exchanged": lambda q, k, v, mask: mb.matmul(
        x=mb.softmax(x=mb.sub(x=mask, y=mb.matmul(x=q, y=k, transpose_y=True)), axis=-1), y=v
    ),
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_is_no_masked_attention_is_left_alone(tmp_path, what):
    given = arrays()
    session, fewer = session_of(save_program(tmp_path / "a.mlpackage", LEFT_ALONE[what], given))
    assert fewer == 0
    np.testing.assert_array_equal(*answers(session, given))


def test_an_attention_reads_a_state_before_it_is_overwritten(tmp_path):
    """The keys are a window into a state that is updated before the attention is computed; it may not be in place."""
    given = {"q": arrays()["q"], "mask": arrays()["mask"]}
    update = np.full((1, HEADS, 1, WIDTH), 5, np.float16)

    def build(q, mask, s):
        rows = mb.read_state(input=s)
        scores = mb.add(x=mb.matmul(x=q, y=rows, transpose_y=True), y=mask)
        end = [1, HEADS, 1, WIDTH]
        mb.coreml_update_state(state=s, value=mb.slice_update(x=rows, update=update, begin=[0, 0, 0, 0], end=end))
        return mb.matmul(x=mb.softmax(x=scores, axis=-1), y=rows)

    path = stateful(tmp_path / "s.mlpackage", build, {"s": (1, HEADS, ROWS, WIDTH)}, **given)
    session, fewer = session_of(path)
    assert fewer
    rows = arrays()["k"]
    for _ in range(2):
        state = session.make_state()
        state.write("s", rows)
        answer = next(iter(session.predict(given, state).values()))
        np.testing.assert_allclose(answer, expected_of({**given, "k": rows, "v": rows}), atol=4e-3)
        assert (state.read("s")[:, :, 0] == 5).all()
