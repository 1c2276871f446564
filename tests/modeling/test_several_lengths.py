"""A package of several lengths: each row takes the shortest function that it fits into, and nobody notices."""

import pytest
import torch
from tiny_models import answer, make_inputs, make_original, psnr

from optimum_ane.errors import InputError
from optimum_ane.modeling import model_class_of
from optimum_ane.runtimes.portable import PortableSession, row_axis

LENGTHS = (4, 8, 16)


@pytest.fixture
def load(tiny_package):
    def make(task, name="bert", **options):
        package = tiny_package(name, task, sequence_length=LENGTHS, **options)
        return model_class_of(task).from_pretrained(package), make_original(name, task)

    return make


@pytest.fixture
def ran(monkeypatch):
    """The rows of each prediction, by the length of its function."""
    predictions = {length: [] for length in LENGTHS}
    predict = PortableSession.predict

    def run(session, inputs, **options):
        rows, length = inputs["input_ids"].shape
        predictions[length].append(rows)
        return predict(session, inputs, **options)

    monkeypatch.setattr(PortableSession, "predict", run)
    return predictions


@pytest.mark.parametrize("task", ["multiple-choice", "text-classification", "token-classification"])
def test_answers_are_the_originals_whatever_function_a_row_took(load, task):
    model, original = load(task)
    assert model.sequence_length == 16
    inputs = make_inputs(original, rows=7, length=16)
    expected = answer(original, inputs)
    mask = inputs["attention_mask"].bool()
    if task == "multiple-choice":
        inputs = {name: value[:, None] for name, value in inputs.items()}
    for ours, theirs in zip(model(**inputs).to_tuple(), expected, strict=True):
        assert ours.shape == theirs.shape
        if task == "token-classification":
            ours, theirs = ours[mask], theirs[mask]
        assert psnr(theirs, ours) >= 45


def test_each_row_takes_the_shortest_function_that_it_fits_into(load, ran):
    model, _ = load("text-classification")
    lengths = torch.tensor([16, 1, 4, 5, 8, 9, 3])
    mask = (torch.arange(16)[None, :] < lengths[:, None]).long()
    model(torch.full((7, 16), 7), mask)
    assert ran == {4: [3], 8: [2], 16: [2]}


def test_more_rows_than_run_at_once_take_several_predictions(load, ran, monkeypatch):
    monkeypatch.setattr(row_axis, "MOST_ROWS", 3)
    model, original = load("text-classification")
    inputs = make_inputs(original, rows=8, length=4)
    logits = model(**inputs).logits
    assert ran == {4: [3, 3, 2], 8: [], 16: []}
    assert psnr(answer(original, inputs)[0], logits) >= 45


def test_rows_that_may_see_each_other_run_one_by_one(load, ran):
    model, original = load("text-classification", "deberta-v2")
    inputs = make_inputs(original, rows=3, length=4)
    logits = model(**inputs).logits
    assert ran == {4: [1, 1, 1], 8: [], 16: []}
    assert psnr(answer(original, inputs)[0], logits) >= 45


def test_the_order_of_the_rows_is_kept(load):
    model, _ = load("text-classification")
    lengths = [16, 2, 9, 4, 1, 7]
    ids = torch.arange(6 * 16).reshape(6, 16) % 90 + 5
    mask = (torch.arange(16)[None, :] < torch.tensor(lengths)[:, None]).long()
    together = model(ids, mask).logits
    alone = torch.cat([model(ids[i : i + 1, :length]).logits for i, length in enumerate(lengths)])
    assert torch.equal(together, alone)


def test_without_a_mask_every_token_counts(load, ran):
    model, _ = load("text-classification")
    model(torch.full((2, 5), 7))
    assert ran == {4: [], 8: [2], 16: []}


def test_rows_that_are_padded_on_the_left_keep_their_positions(load, ran):
    model, original = load("text-classification")
    inputs = make_inputs(original, rows=3, length=12, side="left")
    logits = model(**inputs).logits
    assert ran == {4: [], 8: [], 16: [3]}
    assert psnr(answer(original, inputs)[0], logits) >= 45


def test_rows_padded_beyond_the_package_are_taken_where_their_tokens_fit(load):
    model, original = load("token-classification")
    inputs = make_inputs(original, rows=3, length=16)
    wide = {
        name: torch.nn.functional.pad(value, (0, 20), value=1 if name == "input_ids" else 0)
        for name, value in inputs.items()
    }
    logits = model(**wide).logits
    assert logits.shape == (3, 36, 2)
    assert torch.equal(logits[:, :16], model(**inputs).logits)
    assert not logits[:, 16:].any()
    mask = torch.ones(2, 36, dtype=torch.long)
    mask[0, 3:] = 0
    mask[1, 17:] = 0
    with pytest.raises(InputError, match="row 1 has 17 tokens, and this package takes 16"):
        model(torch.full((2, 36), 7), mask)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
def test_batches_hold_rows_of_one_function(load, ran, name, rows):
    model, original = load("text-classification", name, batch_size=2)
    inputs = make_inputs(original, rows=rows, length=16)
    assert psnr(answer(original, inputs)[0], model(**inputs).logits) >= 45
    tokens = inputs["attention_mask"].sum(1)
    counts = {4: int((tokens <= 4).sum()), 8: int(((tokens > 4) & (tokens <= 8)).sum()), 16: int((tokens > 8).sum())}
    for length, count in counts.items():
        # What is not full is filled up; of BERT's rows more than two run at once.
        pairs = [2] * -(-count // 2)
        assert ran[length] == (pairs if name == "deberta-v2" or count < 3 else [count])


def test_hidden_states_are_those_of_the_original(load):
    model, original = load("text-classification")
    inputs = make_inputs(original, rows=5, length=16)
    ours = model(**inputs, output_hidden_states=True).hidden_states
    with torch.no_grad():
        theirs = original(**inputs, output_hidden_states=True).hidden_states
    assert len(ours) == len(theirs)
    mask = inputs["attention_mask"].bool()
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert psnr(reference[mask], mine[mask]) >= 45
        # Beyond the function that a row took there is nothing.
        assert not mine[-1, 4:].any()


def test_an_empty_batch_gives_an_empty_answer(load):
    for task, shape in (("text-classification", (0, 2)), ("token-classification", (0, 5, 2))):
        model, _ = load(task)
        assert model(torch.zeros(0, 5, dtype=torch.long)).logits.shape == shape
