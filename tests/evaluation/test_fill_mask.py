import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import TokenLookup
from tiny_models import WORDS, make_original, make_tokenizer

from optimum_ane.errors import CheckpointError, DatasetError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.fill_mask import MASKS_PER_TEXT, FillMask, Texts

EVALUATOR = FillMask(SimpleNamespace())
VOCABULARY = make_tokenizer().get_vocab()
MASK = VOCABULARY["<mask>"]


def texts(*rows):
    return Texts("dev", "masked_tokens", None, list(rows))


def run(data, package, reference=None, sequence_length=16):
    return EVALUATOR.compare(
        reference, package, make_tokenizer(), data, sequence_length=sequence_length, runtime="portable"
    )


def guesses(**scores):
    """A model that scores words so wherever a token is masked, whatever stands around it."""
    table = np.zeros((len(VOCABULARY), len(VOCABULARY)))
    for word, score in scores.items():
        table[MASK, VOCABULARY[word]] = score
    return TokenLookup(table)


def test_by_hand():
    data = texts("film film", "plot", "poor")
    package = guesses(film=3, plot=2, fine=2, story=2, great=2, poor=1)
    report = run(data, package, guesses(film=3, plot=2, fine=2, story=2, poor=2))
    # Four tokens are masked, each alone. The likeliest is "film", "plot" is among the best five, "poor" is the sixth.
    assert report.package.metrics["top_1_accuracy"] == 0.5
    assert (report.package.metrics["top_5_accuracy"], report.original.metrics["top_5_accuracy"]) == (0.75, 1.0)
    total = math.exp(3) + 4 * math.exp(2) + math.exp(1) + len(VOCABULARY) - 6
    mean = (2 * 3 + 2 + 1) / 4 - math.log(total)
    assert report.package.metrics["pseudo_perplexity"] == pytest.approx(math.exp(-mean))
    assert (report.rows, report.counts, report.unit) == (3, {"masked tokens": 4}, "masked tokens")
    assert (report.primary_metric, report.drop, report.agreement) == ("top_1_accuracy", 0.0, 1.0)
    # Of each masked token one number of the vocabulary is 2 off ("great"), and one is 1 off ("poor").
    assert report.psnr == pytest.approx(20 * math.log10(3 / math.sqrt((4 + 1) / len(VOCABULARY))))


def test_tokens_are_masked_one_at_a_time_and_neither_special_nor_unknown_ones():
    tokenizer = make_tokenizer()
    text = "the film <mask> xyzzy was </s> fine"
    whole = tokenizer(text)["input_ids"]
    features = EVALUATOR.encode(tokenizer, texts(text), [0], 16).features
    assert len(features) == MASKS_PER_TEXT
    masked = set()
    for feature in features:
        ids = list(feature.inputs["input_ids"])
        [position] = feature.positions
        assert ids[position] == MASK
        assert whole[position] == feature.token
        ids[position] = feature.token
        assert ids == whole
        masked.add(tokenizer.convert_ids_to_tokens(feature.token))
    assert masked == {"the", "film", "was", "fine"}


def test_the_same_tokens_are_masked_however_many_rows_are_read():
    rows = [" ".join(np.random.default_rng(row).permutation(WORDS.split())) for row in range(20)]
    tokenizer = make_tokenizer()

    def masked(count, order):
        found = {}
        for feature in EVALUATOR.encode(tokenizer, texts(*rows[:count]), order, 16).features:
            found.setdefault(feature.row, []).append(int(feature.positions[0]))
        return found

    whole = masked(20, range(20))
    assert all(len(set(positions)) == MASKS_PER_TEXT for positions in whole.values())
    assert len({tuple(positions) for positions in whole.values()}) > 15  # not the same places in each text
    assert masked(5, range(5)) == {row: whole[row] for row in range(5)}
    assert masked(20, [7, 3]) == {row: whole[row] for row in (7, 3)}


def test_against_a_model_that_is_asked_directly():
    """Salazar et al.: the probability of each token given all others, one call a token."""
    model = make_original("roberta", "fill-mask")
    tokenizer = make_tokenizer()
    data = texts("the film was fine", "a dull story", "very good")
    report = run(data, model)
    logs, ranks = [], []
    for text in data.texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for position in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, position] = MASK
            with torch.no_grad():
                scores = model(input_ids=masked, attention_mask=torch.ones_like(ids)).logits[0, position].double()
            logs.append(scores.log_softmax(0)[ids[0, position]].item())
            ranks.append(scores.argsort(descending=True).tolist().index(ids[0, position]))
    assert report.counts == {"masked tokens": len(logs)}
    assert report.package.metrics == pytest.approx(
        {
            "top_1_accuracy": np.mean(np.array(ranks) == 0),
            "top_5_accuracy": np.mean(np.array(ranks) < 5),
            "pseudo_perplexity": math.exp(-np.mean(logs)),
        },
        rel=1e-5,
    )


def test_texts_are_drawn_and_not_tokens():
    """Each model is right in all four tokens of one of two texts: a resample of texts may hold one text alone."""
    report = run(texts("film film film film", "plot plot plot plot"), guesses(plot=1), guesses(film=1))
    assert (report.drop, report.agreement) == (0.0, 0.0)
    assert report.drop_interval == (-100.0, 100.0)


def test_ties_go_to_the_first_as_argmax_has_it():
    first, second = sorted(("film", "plot"), key=VOCABULARY.get)
    scores = {first: 1, second: 1}
    assert run(texts(first), guesses(**scores)).package.metrics["top_1_accuracy"] == 1.0
    assert run(texts(second), guesses(**scores)).package.metrics["top_1_accuracy"] == 0.0


def test_a_token_that_is_ruled_out():
    report = run(texts("film"), guesses(film=-5000))
    assert report.package.metrics["pseudo_perplexity"] == math.inf
    assert report.to_dict()["package"]["metrics"]["pseudo_perplexity"] == "inf"


def test_texts_without_tokens():
    report = run(texts("", "film", "xyzzy"), guesses(film=1))
    assert (report.rows, report.counts) == (3, {"masked tokens": 1})
    with pytest.raises(DatasetError, match="dev: no row gives anything to score"):
        run(texts("", "xyzzy"), guesses())


def test_long_texts_are_cut():
    report = run(texts("film was fine", "film"), guesses(film=1), sequence_length=4)
    assert (report.truncated, report.counts) == (1, {"masked tokens": 3})


def test_tokenizers_that_do_not_fit():
    with pytest.raises(CheckpointError, match="the tokenizer has no mask token"):
        EVALUATOR.encode(SimpleNamespace(mask_token_id=None), texts("film"), [0], 16)
    small = TokenLookup(np.zeros((len(VOCABULARY), 6)))
    with pytest.raises(CheckpointError, match="the model scores 6; they do not belong together"):
        run(texts("great"), small)
    with pytest.raises(ValidationError, match="NaN or infinity, first for example 1"):
        run(texts("film"), guesses(film=math.nan))


# The dataset


def test_one_column_needs_no_name(tmp_path):
    (tmp_path / "dev.tsv").write_text("the film\ntext of it\n")
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.tsv"))).texts == ["the film", "text of it"]
    (tmp_path / "dev.csv").write_text("text\nthe film\n")
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.csv"))).texts == ["the film"]
    (tmp_path / "dev.jsonl").write_text(json.dumps({"id": 1, "body": "x", "sentence": "a film"}))
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.jsonl"))).texts == ["a film"]
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.jsonl"), text_column="body")).texts == ["x"]


def test_glue_lends_its_texts(monkeypatch):
    import datasets

    table = datasets.Dataset.from_dict({"question": ["q"], "sentence": ["s"], "label": [0]})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None, *, split=None: table)
    assert EVALUATOR.load(DatasetSpec("glue", "qnli")).texts == ["q"]


def test_what_is_refused(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}')
    with pytest.raises(DatasetError, match="row 2, column text: a text is expected, found nothing"):
        EVALUATOR.load(DatasetSpec(str(path)))
    with pytest.raises(DatasetError, match="label_column says nothing to fill-mask; leave it out"):
        EVALUATOR.load(DatasetSpec(str(path), label_column="text"))
