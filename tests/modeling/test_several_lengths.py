"""A package of several lengths: each row takes the shortest function that it fits into, and nobody notices."""

import pytest
import torch
from tiny_models import TASKS, answer, make_inputs, make_original, psnr

from optimum_ane.errors import InputError
from optimum_ane.modeling import model_class_of

LENGTHS = (4, 8, 16)


@pytest.fixture
def load(tiny_package):
    def make(task, name="bert", **options):
        package = tiny_package(name, task, sequence_length=LENGTHS, **options)
        return model_class_of(task).from_pretrained(package), make_original(name, task)

    return make


@pytest.fixture
def counted(monkeypatch):
    """Counts the predictions of each function."""

    def count(model):
        calls = dict.fromkeys(LENGTHS, 0)
        for function in model._functions:
            predict = function.session.predict

            def run(inputs, length=function.length, predict=predict, **options):
                calls[length] += 1
                return predict(inputs, **options)

            monkeypatch.setattr(function.session, "predict", run)
        return calls

    return count


@pytest.mark.parametrize("task", TASKS)
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
        if task in ("feature-extraction", "fill-mask", "question-answering", "token-classification"):
            ours, theirs = ours[mask], theirs[mask]
        assert psnr(theirs, ours) >= 45


def test_each_row_takes_the_shortest_function_that_it_fits_into(load, counted):
    model, _ = load("text-classification")
    calls = counted(model)
    lengths = torch.tensor([16, 1, 4, 5, 8, 9, 3])
    mask = (torch.arange(16)[None, :] < lengths[:, None]).long()
    model(torch.full((7, 16), 7), mask)
    assert calls == {4: 3, 8: 2, 16: 2}


def test_the_order_of_the_rows_is_kept(load):
    model, _ = load("text-classification")
    lengths = [16, 2, 9, 4, 1, 7]
    ids = torch.arange(6 * 16).reshape(6, 16) % 90 + 5
    mask = (torch.arange(16)[None, :] < torch.tensor(lengths)[:, None]).long()
    together = model(ids, mask).logits
    alone = torch.cat([model(ids[i : i + 1, :length]).logits for i, length in enumerate(lengths)])
    assert torch.equal(together, alone)


def test_without_a_mask_every_token_counts(load, counted):
    model, _ = load("text-classification")
    calls = counted(model)
    model(torch.full((2, 5), 7))
    assert calls == {4: 0, 8: 2, 16: 0}


def test_rows_that_are_padded_on_the_left_keep_their_positions(load, counted):
    model, original = load("text-classification")
    calls = counted(model)
    inputs = make_inputs(original, rows=3, length=12, side="left")
    logits = model(**inputs).logits
    assert calls == {4: 0, 8: 0, 16: 3}
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
def test_batches_hold_rows_of_one_function(load, counted, rows):
    model, original = load("text-classification", batch_size=2)
    calls = counted(model)
    inputs = make_inputs(original, rows=rows, length=16)
    assert psnr(answer(original, inputs)[0], model(**inputs).logits) >= 45
    tokens = inputs["attention_mask"].sum(1)
    expected = {4: int((tokens <= 4).sum()), 8: int(((tokens > 4) & (tokens <= 8)).sum()), 16: int((tokens > 8).sum())}
    assert calls == {length: -(-count // 2) for length, count in expected.items()}


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
