import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from stand_ins import Lookup, WithTokenTypes, make_number_tokenizer
from tiny_models import make_inputs, make_original

from optimum_ane.errors import DatasetError, UnsupportedModelError, ValidationError
from optimum_ane.evaluation.accuracy import check_accuracy_drop
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.sentence_similarity import ScoredPairs, SentenceSimilarity
from optimum_ane.package.form import ExportForm
from optimum_ane.validation.pooled_original import as_reference

EVALUATOR = SentenceSimilarity(SimpleNamespace())


def form(pooling, normalize):
    return ExportForm("feature-extraction", pooling=pooling, normalize=normalize)


def pairs(*rows):
    texts, others, scores = zip(*rows, strict=True)
    return ScoredPairs("dev", "stsb", "as values", list(map(str, texts)), list(map(str, others)), np.array(scores))


def run(data, package, reference=None, sequence_length=4):
    reference = None if reference is None else Lookup(reference, "pooler_output")
    return EVALUATOR.compare(
        reference,
        WithTokenTypes(Lookup(package, "pooler_output")),
        make_number_tokenizer(),
        data,
        sequence_length=sequence_length,
        runtime="portable",
    )


def at(*degrees, length=1.0):
    return [[length * math.cos(math.radians(d)), length * math.sin(math.radians(d))] for d in degrees]


def test_by_hand():
    """Cosines with text 0, at 0°: 1, √3/2, 1/2, 0. The package swaps the places of two; lengths play no part."""
    data = pairs((0, 0, 5.0), (0, 1, 4.0), (0, 2, 3.0), (0, 3, 0.0))
    original, package = at(0, 30, 60, 90), at(0, 60, 30, 90, length=7.0)
    report = run(data, package, original)
    assert report.original.metrics["spearmanr"] == pytest.approx(1.0)
    assert report.package.metrics["spearmanr"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks are off by one
    cosines, scores = [1, math.sqrt(3) / 2, 0.5, 0], [5.0, 4.0, 3.0, 0.0]
    assert report.original.metrics["pearson"] == pytest.approx(pearsonr(cosines, scores).statistic)
    assert (report.primary_metric, report.drop) == ("spearmanr", pytest.approx(20.0))  # hundredths
    assert (report.agreement, report.package.right, report.rows, report.outputs) == (None, None, 4, "embeddings")


def test_against_scipy_and_with_an_interval():
    random = np.random.default_rng(0)
    table, noisy = random.normal(size=(100, 8)), random.normal(size=(100, 8))
    noisy = table + 0.5 * noisy
    rows = [(*random.choice(100, 2, replace=False), 0.0) for _ in range(200)]  # a text is not its own partner

    def cosines(vectors):
        left, right = (vectors[[row[side] for row in rows]] for side in (0, 1))
        return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)

    gold = cosines(table) + 0.3 * random.normal(size=200)
    data = pairs(*((a, b, score) for (a, b, _), score in zip(rows, gold, strict=True)))
    report = run(data, noisy, table)
    for score, vectors in ((report.original, table), (report.package, noisy)):
        assert score.metrics["spearmanr"] == pytest.approx(spearmanr(cosines(vectors), gold).statistic, abs=1e-5)
        assert score.metrics["pearson"] == pytest.approx(pearsonr(cosines(vectors), gold).statistic, abs=1e-5)
    low, high = report.drop_interval
    assert 0 < low < report.drop < high
    with pytest.raises(ValidationError, match="worse than the original"):
        check_accuracy_drop(report)


def test_equal_cosines_have_no_correlation():
    report = run(pairs((0, 0, 1.0), (0, 0, 2.0)), at(0), at(0))
    assert math.isnan(report.drop)
    with pytest.raises(ValidationError, match="the drop in spearmanr on dev is not defined"):
        check_accuracy_drop(report)
    with pytest.raises(DatasetError, match="a correlation needs two rows or more"):
        run(pairs((0, 0, 1.0)), at(0))


def test_an_embedding_of_zeros_is_like_nothing():
    report = run(pairs((0, 1, 0.0), (1, 1, 1.0), (0, 1, 0.0)), [[0.0, 0.0], [1.0, 0.0]])
    assert report.package.metrics["spearmanr"] == pytest.approx(1.0)


def test_a_row_is_cut_once():
    both, none, first = ("1 2 3 4 5", "1 2 3 4 5 6", 1.0), (1, 2, 0.0), ("1 2 3 4 5", 2, 0.5)
    second = (2, "1 2 3 4 5", 0.1)
    assert run(pairs(both, none, first, second), np.eye(7)).truncated == 3


def test_a_package_that_does_not_pool_is_refused_with_what_to_do():
    with pytest.raises(UnsupportedModelError, match=r"gives hidden states.*export with pooling mean \(or cls\)"):
        SentenceSimilarity.check_pooling(None)
    SentenceSimilarity.check_pooling("cls")

    def package(input_ids, attention_mask, token_type_ids):
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 3))

    data = pairs((0, 0, 1.0), (0, 1, 2.0))
    with pytest.raises(ValidationError, match=r"the package gives no pooler_output; .*export with pooling mean"):
        EVALUATOR.compare(None, package, make_number_tokenizer(), data, sequence_length=4, runtime="portable")


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_original_is_pooled_over_its_tokens_alone(side):
    """BERT's own pooler_output, of another layer, is not what is compared."""
    model = make_original("bert", "feature-extraction")
    inputs = make_inputs(model, side=side)
    with torch.no_grad():
        answer = model(**inputs)
        mean, cls, unit = (
            as_reference(model, form(*pooling))(**inputs).pooler_output
            for pooling in (("mean", False), ("cls", False), ("cls", True))
        )
    rows = [
        hidden[mask.bool()].mean(0)
        for hidden, mask in zip(answer.last_hidden_state, inputs["attention_mask"], strict=True)
    ]
    torch.testing.assert_close(mean, torch.stack(rows))
    first = inputs["attention_mask"].argmax(1)
    torch.testing.assert_close(cls, answer.last_hidden_state[torch.arange(len(first)), first])
    torch.testing.assert_close(unit, cls / cls.norm(dim=1, keepdim=True))
    assert not torch.allclose(cls, answer.pooler_output, atol=0.1)
    assert as_reference(model, form(None, False)) is model


# The dataset


@pytest.mark.parametrize(
    "header", ["sentence1\tsentence2\tscore", "Text1\tText2\tsimilarity_score", "question1\tquestion2\tlabel"]
)
def test_usual_columns(tmp_path, header):
    (tmp_path / "dev.tsv").write_text(f"{header}\na\tb\t4.5\nc\td\t-1\n")
    data = EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.tsv")))
    assert (data.texts, data.text_pairs, data.scores.tolist()) == (["a", "c"], ["b", "d"], [4.5, -1.0])
    assert (data.metric_config, data.label_mapping) == ("stsb", "as values")


def test_columns_by_option(tmp_path):
    (tmp_path / "dev.csv").write_text("3,a,b\n4,c,d\n")
    spec = DatasetSpec(str(tmp_path / "dev.csv"), text_column="1", text_pair_column="2", label_column="0")
    assert EVALUATOR.load(spec).scores.tolist() == [3.0, 4.0]
    with pytest.raises(DatasetError, match=r"row 1: 3 column\(s\) and no header .* with text_column \(from 0\)"):
        EVALUATOR.load(DatasetSpec(spec.dataset))


def test_stsb_of_glue(monkeypatch):
    import datasets

    def load_dataset(path, name=None, *, split=None):
        assert (path, name) == ("nyu-mll/glue", "stsb")
        scores = [-1.0, -1.0] if split == "test" else [1.5, 4.0]
        return datasets.Dataset.from_dict({"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": scores})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert EVALUATOR.load(DatasetSpec("nyu-mll/glue", "stsb")).scores.tolist() == [1.5, 4.0]
    with pytest.raises(DatasetError, match=r"no score \(-1\), as in the test splits"):
        EVALUATOR.load(DatasetSpec("nyu-mll/glue", "stsb", "test"))
    with pytest.raises(DatasetError, match="GLUE's 'sst2' has no similarity scores; take dataset_config stsb"):
        EVALUATOR.load(DatasetSpec("nyu-mll/glue", "sst2"))


@pytest.mark.parametrize("value", ["good", None, "nan", True, [1], 10**400])
def test_what_is_no_score(tmp_path, value):
    rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (1.0, value)]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DatasetError, match=r"row 2, column score: .* is not a finite number, which a similarity is"):
        EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.jsonl")))
