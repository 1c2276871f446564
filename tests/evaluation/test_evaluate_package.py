import json

import numpy as np
import pytest
from tiny_models import TASKS, WORDS, save_checkpoint

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane import export
from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.compression.calibration_data import calibration_of_dataset
from optimum_ane.errors import CheckpointError, DatasetError, PackageError, UnsupportedModelError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.workflows.evaluate import evaluate_package

ROWS = 24
LENGTHS = dict.fromkeys(TASKS, 16) | {"question-answering": 24}
ARCHITECTURES = {"fill-mask": "roberta", "multiple-choice": "bert", "question-answering": "electra"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
SETTINGS = {"token-classification": {"id2label": TAGS}, "text-classification": {"id2label": {0: "no", 1: "yes"}}}
FORMS = {"feature-extraction": {"pooling": "mean", "normalize": True}}
METRICS = {
    "feature-extraction": ["spearmanr", "pearson"],
    "fill-mask": ["top_1_accuracy", "top_5_accuracy", "pseudo_perplexity"],
    "multiple-choice": ["accuracy"],
    "question-answering": ["f1", "exact_match", "HasAns_f1", "HasAns_exact", "NoAns_exact"],
    "text-classification": ["accuracy"],
    "token-classification": ["f1", "precision", "recall", "accuracy"],
}


def make_rows(task):
    random = np.random.default_rng(0)

    def text(least, most):
        return " ".join(random.choice(WORDS.split(), random.integers(least, most)))

    def make():
        if task == "feature-extraction":
            return {"sentence1": text(3, 8), "sentence2": text(1, 20), "score": 5 * random.random()}
        if task == "fill-mask":
            return {"text": text(1, 12)}
        if task == "multiple-choice":
            return {"sent1": text(3, 6), "sent2": text(1, 3), "endings": [text(1, 5) for _ in range(3)],
                    "label": int(random.integers(3))}  # fmt: skip
        if task == "question-answering":
            context = text(10, 40)
            answers = [random.choice(context.split())] if random.random() < 0.8 else []
            return {"question": text(2, 4), "context": context, "answers": {"text": answers}}
        if task == "text-classification":
            return {"text": text(1, 20), "label": int(random.integers(2))}
        words = text(1, 20).split()
        return {"tokens": words, "ner_tags": random.choice(list(TAGS.values()), len(words)).tolist()}

    return [make() for _ in range(ROWS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Exports a tiny checkpoint of a task and scores it on the way, once; directories and what the export reported."""
    found = {}

    def make(task):
        if task not in found:
            folder = tmp_path_factory.mktemp(task)
            save_checkpoint(folder / "source", ARCHITECTURES.get(task, "distilbert"), task, **SETTINGS.get(task, {}))
            dataset = folder / "dev.jsonl"
            dataset.write_text("\n".join(map(json.dumps, make_rows(task))))
            result = export(
                folder / "source", folder / "out", task=task, sequence_length=LENGTHS[task], quiet=True,
                eval_dataset=str(dataset), max_accuracy_drop=30, **FORMS.get(task, {}),
            )  # fmt: skip
            found[task] = folder, DatasetSpec(str(dataset)), result
        return found[task]

    return make


@pytest.mark.parametrize("task", TASKS)
def test_every_task_beside_its_original(made, task):
    folder, spec, exported = made(task)
    report = evaluate_package(folder / "out", spec)
    assert (report.task, report.rows, report.runtime) == (task, ROWS, "portable")
    assert list(report.package.metrics) == list(report.original.metrics) == METRICS[task]
    # The original was run in float32 and is the same model: float16 alone stands between the two.
    assert 45 < report.psnr < 100
    assert abs(report.drop) <= 100 / ROWS + 1
    assert report.agreement is None or report.agreement > 0.9
    for name, value in report.package.metrics.items():
        assert value == pytest.approx(report.original.metrics[name], abs=0.1, rel=0.01)
    assert any(0 < value != 1 for value in report.package.metrics.values())
    # The export has scored the same package on the same rows.
    accuracy = exported.report.accuracy | {"dataset": spec.dataset}
    mine = json.loads(json.dumps(report.to_dict()))
    for score in (accuracy, mine):
        del score["package"]["samples_per_second"], score["original"]["samples_per_second"]
    assert json.loads(json.dumps(accuracy)) == mine


@pytest.mark.parametrize("task", TASKS)
def test_calibration_rows_of_every_task(made, task):
    folder, spec, _ = made(task)
    calibration = calibration_of_dataset(folder / "out", spec, rows=10)
    assert len(calibration.batches) == 10
    for batch in calibration.batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape == (1, LENGTHS[task])
        assert ids.dtype == np.int32
        assert (ids[mask == 0] == 1).all()  # padding
        assert mask.sum() > 2
    assert calibration.digest == calibration_of_dataset(folder / "out", spec, rows=10).digest
    assert calibration.digest != calibration_of_dataset(folder / "out", spec, rows=10, seed=1).digest


@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask", "question-answering"])
def test_variants_of_every_task_are_scored_beside_an_original_that_runs_once(made, task, monkeypatch):
    folder, spec, _ = made(task)
    calls = []
    scorer = AccuracyScorer(folder / "out", spec)
    model = scorer._original._model
    scorer._original._model = lambda **inputs: calls.append(1) or model(**inputs)
    [mlpackage] = (folder / "out").glob("*.mlpackage")
    session = PortableSession(mlpackage)
    first = scorer.report(session)
    count = len(calls)
    second = scorer.report(session)
    assert len(calls) == count > 0
    assert second.psnr == first.psnr == pytest.approx(evaluate_package(folder / "out", spec).psnr)
    # What finds no room in memory is computed again, to the same end.
    monkeypatch.setattr("optimum_ane.compression.accuracy_scorer._MOST_BYTES", 0)
    scorer = AccuracyScorer(folder / "out", spec)
    scorer.report(session)
    assert scorer.report(session).psnr == first.psnr
    assert not scorer._original._answers


def test_reports_of_text_classification_have_the_keys_that_they_always_had(made):
    folder, spec, _ = made("text-classification")
    report = evaluate_package(folder / "out", spec)
    assert list(report.to_dict()) == [
        "dataset", "rows", "truncated", "metric_config", "label_mapping", "problem_type", "sequence_length", "runtime",
        "primary_metric", "package", "original", "drop", "drop_interval", "agreement", "psnr", "resamples",
        "confidence", "machine", "versions",
    ]  # fmt: skip
    assert list(report.to_dict()["package"]) == ["metrics", "right", "samples_per_second", "batch_size"]


def test_without_the_original(made):
    folder, spec, _ = made("token-classification")
    report = evaluate_package(folder / "out", spec, with_reference=False, reference="gone/elsewhere")
    assert (report.original, report.drop, report.psnr) == (None, None, None)


def test_another_reference(made, tmp_path):
    folder, spec, _ = made("fill-mask")
    save_checkpoint(tmp_path / "other", "roberta", "fill-mask", seed=1)
    assert evaluate_package(folder / "out", spec, reference=str(tmp_path / "other")).psnr < 30


def test_a_package_of_hidden_states_is_refused(made, tmp_path):
    folder, spec, _ = made("feature-extraction")
    with pytest.raises(UnsupportedModelError, match=r"the package gives hidden states, .* export with pooling mean"):
        export(folder / "source", tmp_path / "out", task="feature-extraction", sequence_length=8, quiet=True,
               eval_dataset=spec)  # fmt: skip
    assert not (tmp_path / "out").exists()
    export(
        folder / "source", tmp_path / "out", task="feature-extraction", sequence_length=8, quiet=True, validate=False
    )
    with pytest.raises(UnsupportedModelError, match="the package gives hidden states"):
        evaluate_package(tmp_path / "out", spec)


def test_a_dataset_of_another_task(made):
    folder, _, _ = made("question-answering")
    with pytest.raises(DatasetError, match="no question column is recognised among: tokens, ner_tags"):
        evaluate_package(folder / "out", made("token-classification")[1])


def test_no_package(tmp_path):
    with pytest.raises(PackageError, match=r"holds no ane_config\.json"):
        evaluate_package(tmp_path, DatasetSpec("dev.tsv"))
    for content in ("{", "[]", "[" * 100_000, '{"task": "image-classification"}'):
        (tmp_path / "ane_config.json").write_text(content)
        with pytest.raises(PackageError):
            evaluate_package(tmp_path, DatasetSpec("dev.tsv"))


def test_reference_that_cannot_be_had(made, tmp_path):
    folder, spec, _ = made("text-classification")
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded: .* name it with reference, or .* with_reference=False"
    ):
        evaluate_package(folder / "out", spec, reference=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_reference_of_other_labels(made, tmp_path, task):
    folder, spec, _ = made(task)
    names = dict(enumerate(reversed(SETTINGS[task]["id2label"].values())))
    save_checkpoint(tmp_path / "other", "distilbert", task, id2label=names)
    with pytest.raises(CheckpointError, match=r"has the labels .*, the package has "):
        evaluate_package(folder / "out", spec, reference=str(tmp_path / "other"))


def test_reference_without_its_head(made, tmp_path):
    """transformers would start a missing head at random, and any package would beat it."""
    folder, spec, _ = made("text-classification")
    model = save_checkpoint(tmp_path / "other", "distilbert", "text-classification", **SETTINGS["text-classification"])
    model.distilbert.save_pretrained(tmp_path / "other")
    config = json.loads((folder / "source" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match="weights that the task text-classification needs are missing, classifier"
    ):
        evaluate_package(folder / "out", spec, reference=str(tmp_path / "other"))


def test_a_drop_beyond_the_limit_ends_the_export(made, tmp_path):
    """No package is so much better than its original."""
    folder, spec, _ = made("token-classification")
    with pytest.raises(
        ValidationError, match=r"worse than the original by .* points, max_accuracy_drop allows -90\.00"
    ):
        export(folder / "source", tmp_path / "out", task="token-classification", sequence_length=16, quiet=True,
               eval_dataset=spec, max_accuracy_drop=-90)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_flawed_dataset(made, tmp_path):
    folder, _, _ = made("text-classification")
    (tmp_path / "bad.tsv").write_text("a\t1\nb\t5\n")
    with pytest.raises(DatasetError, match=r"bad\.tsv, row 2, column 1: the model does not know the label '5'"):
        evaluate_package(folder / "out", DatasetSpec(str(tmp_path / "bad.tsv")))
