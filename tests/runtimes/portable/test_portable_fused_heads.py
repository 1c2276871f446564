"""The heads of an attention computed together: the same bits, and only where nothing can tell the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from portable_programs import save_program

from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.fusions import heads

HEADS, WIDTH, KEYS, QUERIES = 3, 8, 20, 12


def arrays(dtype=np.float16, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "k": (1, KEYS, 1, HEADS * WIDTH),
        "q": (1, HEADS * WIDTH, 1, QUERIES),
        "v": (1, HEADS * WIDTH, 1, KEYS),
        "mask": (1, KEYS, 1, 1),
    }
    made = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    made["mask"][:, 15:] = -10000  # and numbers before, as a bias has them
    return made


def attention(k, q, v, mask, order=range(HEADS), axis=1, second_mask=None, flipped=False):
    """An attention as our encoders have it; returns the result and the weights of each head."""
    pieces = [mb.split(x=x, num_splits=HEADS, axis=along) for x, along in ((k, 3), (q, 1), (v, 1))]
    results, weights = [], []
    for index in order:
        key, query, value = (cut[index] for cut in pieces)
        scores = mb.einsum(values=(key, query), equation="bkhc,bchq->bkhq")
        added = second_mask if second_mask is not None and index == 1 else mask
        if added is not None:
            scores = mb.add(x=added, y=scores) if flipped else mb.add(x=scores, y=added)
        weights.append(mb.softmax(x=scores, axis=axis))
        results.append(mb.einsum(values=(value, weights[-1]), equation="bchk,bkhq->bchq"))
    return mb.concat(values=results, axis=1), weights


def joined(path, precision="program"):
    session = PortableSession(path, precision=precision)
    unseen = [step for step in session._program._steps_unseen if step.node.outputs]  # no conversions
    return session, len(session._program.steps) - len(unseen)


def answers(session, given):
    """The first prediction looks at each operation, the second at none, the third shows all of them."""
    first, second = (session.predict(given) for _ in range(2))
    third = session.predict(given, intermediates=["*"])
    return [{name: answer[name] for name in session.outputs} for answer in (first, second, third)]


def assert_same_bits(given, others):
    for other in others:
        for name, value in given.items():
            np.testing.assert_array_equal(value.view(np.uint8), other[name].view(np.uint8), err_msg=name)


@pytest.mark.parametrize("precision", ["program", "float32"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_result_has_the_same_bits_and_is_an_attention(tmp_path, precision, dtype, flipped):
    given = arrays(dtype)
    path = save_program(
        tmp_path / "a.mlpackage", lambda k, q, v, mask: attention(k, q, v, mask, flipped=flipped)[0], given
    )
    session, fewer = joined(path, precision)
    assert fewer == 3 + 4 * HEADS  # all in place of the concatenation
    first, *others = answers(session, given)
    assert_same_bits(first, others)
    k, q, v, mask = (torch.from_numpy(given[name]).double() for name in ("k", "q", "v", "mask"))
    scores = torch.einsum("knc,ncq->nkq", k[0, :, 0].view(KEYS, HEADS, WIDTH), q[0, :, 0].view(HEADS, WIDTH, QUERIES))
    weights = (scores + mask[0, :, 0]).softmax(1)
    expected = torch.einsum("nck,nkq->ncq", v[0, :, 0].view(HEADS, WIDTH, KEYS), weights).reshape(1, -1, 1, QUERIES)
    tolerance = 1e-5 if dtype is np.float32 else 5e-3
    np.testing.assert_allclose(next(iter(first.values())), expected.numpy(), atol=tolerance)


@pytest.mark.parametrize("precision", ["program", "float32"])
def test_heads_without_a_mask_are_joined_as_well(tmp_path, precision):
    given = {name: value for name, value in arrays().items() if name != "mask"}
    path = save_program(tmp_path / "a.mlpackage", lambda k, q, v: attention(k, q, v, None)[0], given)
    session, fewer = joined(path, precision)
    assert fewer == 3 + 3 * HEADS
    first, *others = answers(session, given)
    assert_same_bits(first, others)
    k, q, v = (torch.from_numpy(given[name]).double() for name in ("k", "q", "v"))
    scores = torch.einsum("knc,ncq->nkq", k[0, :, 0].view(KEYS, HEADS, WIDTH), q[0, :, 0].view(HEADS, WIDTH, QUERIES))
    expected = torch.einsum("nck,nkq->ncq", v[0, :, 0].view(HEADS, WIDTH, KEYS), scores.softmax(1))
    np.testing.assert_allclose(next(iter(first.values())), expected.reshape(1, -1, 1, QUERIES).numpy(), atol=5e-3)


@pytest.mark.parametrize("at_once", [1, 2 * KEYS * QUERIES, 10**9])
def test_few_heads_at_a_time_give_the_same(tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(heads, "SCORES_AT_ONCE", at_once)
    given = arrays()
    path = save_program(tmp_path / "a.mlpackage", lambda k, q, v, mask: attention(k, q, v, mask)[0], given)
    session, fewer = joined(path)
    assert fewer
    first, *others = answers(session, given)
    assert_same_bits(first, others)


def with_weights(k, q, v, mask):
    result, weights = attention(k, q, v, mask)
    return result, mb.identity(x=weights[1])


LEFT_ALONE = {
    "weights that are read elsewhere": with_weights,
    "heads in another order": lambda k, q, v, mask: attention(k, q, v, mask, order=(1, 0, 2))[0],
    "heads left out": lambda k, q, v, mask: attention(k, q, v, mask, order=(0, 1))[0],
    "a softmax over queries": lambda k, q, v, mask: attention(k, q, v, mask, axis=3)[0],
    "a mask for one head alone": lambda k, q, v, mask: attention(k, q, v, None, second_mask=mask)[0],
    "another mask for one head": lambda k, q, v, mask: attention(k, q, v, mask, second_mask=mb.mul(x=mask, y=mask))[0],
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_is_not_the_same_computation_is_left_alone(what, tmp_path):
    given = arrays()
    session, fewer = joined(save_program(tmp_path / "a.mlpackage", LEFT_ALONE[what], given))
    assert fewer == 0
    first, *others = answers(session, given)
    assert_same_bits(first, others)


@pytest.mark.parametrize(
    ("name", "attentions"),
    [("albert", 6), ("bert", 2), ("distilbert", 2), ("electra", 2), ("roberta", 2), ("deberta-v2", 0)],
)
@pytest.mark.parametrize("precision", ["program", "float32"])
def test_packages_answer_the_same_whether_anybody_looks_or_not(name, attentions, precision, tiny_package):
    session, fewer = joined(tiny_package(name, "token-classification") / MLPACKAGE, precision)
    assert fewer == attentions * (3 + 4 * 3)
    rng = np.random.default_rng(0)
    given = {key: rng.integers(0, 2, spec.shape).astype(np.int32) for key, spec in session.inputs.items()}
    given["input_ids"] = rng.integers(5, 90, session.inputs["input_ids"].shape).astype(np.int32)
    given["attention_mask"] = (np.arange(16)[None] < 11).astype(np.int32)
    first, *others = answers(session, given)
    assert_same_bits(first, others)
