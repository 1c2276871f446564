import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from stand_ins import Lookup, WithTokenTypes, make_number_tokenizer

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.accuracy import check_accuracy_drop
from optimum_ane.evaluation.report import print_report
from optimum_ane.evaluation.text_classification import LabelledTexts, TextClassification

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def evaluator(problem_type=SINGLE, labels=("NEGATIVE", "POSITIVE")):
    return TextClassification(
        SimpleNamespace(problem_type=problem_type, num_labels=len(labels), id2label=dict(enumerate(labels)))
    )


def examples(labels, metric_config="accuracy", **fields):
    texts = [str(index) for index in range(len(labels))]
    values = {"texts": texts, "text_pairs": None, "labels": np.asarray(labels), "name": "numbers"}
    return LabelledTexts(**(values | {"metric_config": metric_config, "label_mapping": "by id"} | fields))


def run(reference, candidate, data, problem_type=SINGLE, sequence_length=4, **options):
    return evaluator(problem_type).compare(
        None if reference is None else Lookup(reference),
        WithTokenTypes(Lookup(candidate)),
        make_number_tokenizer(),
        data,
        sequence_length=sequence_length,
        runtime="portable",
        **options,
    )


def test_by_hand():
    """Labels 1 1 0 0; the original is wrong on the last, the package on the last two."""
    original = [[0, 4], [0, 4], [4, 0], [0, 4]]
    package = [[0, 4], [0, 4], [1, 2], [0, 4]]
    report = run(original, package, examples([1, 1, 0, 0]))
    assert report.original.metrics == {"accuracy": 0.75}
    assert report.package.metrics == {"accuracy": 0.5}
    assert (report.original.right, report.package.right, report.rows) == (3, 2, 4)
    assert report.drop == pytest.approx(25.0)
    assert report.agreement == 0.75
    # errors 3 and 2 in 8 logits, peak 4: 20·log10(4 / sqrt(13/8))
    assert report.psnr == pytest.approx(20 * math.log10(4 / math.sqrt(13 / 8)), abs=1e-5)
    # each of 4 rows is drawn with probability 1/4: between 0 and 3 times in 95 % of the resamples
    assert report.drop_interval == pytest.approx((0.0, 75.0))
    assert report.resamples >= 1000
    assert report.runtime == "portable"
    assert set(report.versions) == {"coremltools", "torch", "transformers"}


def test_same_logits():
    logits = [[0.0, 1.0], [1.0, 0.0]]
    report = run(logits, logits, examples([1, 0]))
    assert (report.drop, report.drop_interval, report.agreement) == (0.0, (0.0, 0.0), 1.0)
    assert report.psnr == math.inf
    assert report.to_dict()["psnr"] == "inf"
    check_accuracy_drop(report, 0.0)


def test_without_the_original():
    report = run(None, [[0, 1], [1, 0]], examples([1, 1]))
    assert report.package.metrics == {"accuracy": 0.5}
    assert [report.original, report.drop, report.drop_interval, report.agreement, report.psnr] == [None] * 5
    with pytest.raises(ValueError, match="needs the original's score"):
        check_accuracy_drop(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["original"] is None


def test_batches_progress_and_truncation():
    labels = [index % 2 for index in range(40)]
    logits = [[1 - label, label] for label in labels]
    texts = [" ".join([str(index)] * (7 if index in (3, 20) else 1 + index % 4)) for index in range(40)]
    steps = []
    reference = Lookup(logits)
    report = evaluator().compare(
        reference,
        WithTokenTypes(Lookup(logits)),
        make_number_tokenizer(),
        examples(labels, texts=texts),
        sequence_length=5,
        runtime="coreml",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(16, 40), (32, 40), (40, 40)]
    assert reference.calls == [(16, 5), (16, 5), (8, 4)]  # padded to the longest of each batch, cut at 5
    assert report.truncated == 2
    assert report.package.right == 40
    assert report.package.samples_per_second > 0


def test_pairs():
    data = examples([1, 0], texts=["0", "1"], text_pairs=["5 5 5", "6"])
    report = run([[0, 1], [1, 0]], [[0, 1], [1, 0]], data, sequence_length=3)
    assert (report.truncated, report.package.right) == (1, 2)


def test_f1_and_accuracy_are_both_reported():
    report = run([[0, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [1, 0]], examples([1, 0, 1], "mrpc"))
    assert report.primary_metric == "accuracy"
    assert report.original.metrics == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    assert report.package.metrics == {"accuracy": pytest.approx(1 / 3), "f1": pytest.approx(0.5)}


def test_regression():
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    report = run([[1], [2], [3], [4]], [[1], [2], [4], [3]], examples(labels, "stsb"), REGRESSION)
    assert report.original.metrics == {"pearson": pytest.approx(1.0), "spearmanr": pytest.approx(1.0)}
    assert report.package.metrics["pearson"] == pytest.approx(0.8)
    assert report.drop == pytest.approx(20.0)  # hundredths
    assert (report.agreement, report.package.right) == (None, None)


def test_several_labels():
    labels = np.array([[1, 0, 1], [0, 1, 0]])
    report = run([[3, -1, 2], [-1, 1, -2]], [[3, -1, 2], [1, -1, -2]], examples(labels, "multilabel"), MULTI)
    assert report.original.metrics == {"accuracy": 1.0, "f1_micro": 1.0}
    assert report.package.metrics == {"accuracy": 0.5, "f1_micro": pytest.approx(2 / 3)}
    assert (report.agreement, report.drop) == (0.5, 50.0)


def test_correlation_that_is_not_defined():
    report = run([[1], [1]], [[1], [1]], examples(np.array([1.0, 1.0]), "regression"), REGRESSION)
    assert math.isnan(report.drop)
    assert report.drop_interval is None
    assert report.to_dict()["drop"] is None
    with pytest.raises(ValidationError, match="pearson on numbers is not defined"):
        check_accuracy_drop(report)


def test_limit_on_the_drop():
    report = run([[0, 1]] * 100, [[0, 1]] * 98 + [[1, 0]] * 2, examples([1] * 100))
    check_accuracy_drop(report, 2.0)
    with pytest.raises(ValidationError) as caught:
        check_accuracy_drop(report)
    message = str(caught.value)
    assert "worse than the original by 2.00 points, max_accuracy_drop allows 1.00" in message
    assert "100.00% → 98.00%" in message
    check_accuracy_drop(run([[1, 0]], [[0, 1]], examples([1])), 0.0)  # a better package


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_package_that_is_not_finite(value):
    with pytest.raises(ValidationError, match="the package answers with NaN or infinity, first for example 2"):
        run([[0, 1], [0, 1]], [[0, 1], [0, value]], examples([1, 1]))


def test_logits_of_the_wrong_shape():
    with pytest.raises(ValidationError, match=r"an output of shape \(3,\) a row, the original with \(2,\)"):
        run([[0, 1]], [[0, 1, 2]], examples([1]))
    with pytest.raises(ValidationError, match=r"the package answers with logits of shape \(1, 1, 2\) for 1 rows"):
        run([[0, 1]], [[[0, 1]]], examples([1]))
    with pytest.raises(DatasetError, match="label 2 occurs, the model has 2 outputs"):
        run([[0, 1]], [[0, 1]], examples([2]))
    with pytest.raises(DatasetError, match="a regression checkpoint has one output, this one has 2"):
        run([[0, 1]], [[0, 1]], examples(np.array([0.5]), "regression"), REGRESSION)


@pytest.mark.parametrize("with_reference", [True, False])
def test_table(with_reference):
    report = run([[0, 1]] * 4 if with_reference else None, [[0, 1]] * 3 + [[1, 0]], examples([1, 1, 1, 1]))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    assert "Accuracy on numbers" in text
    assert "75.00%" in text
    assert "3 of 4" in text
    assert "runtime portable" in text
    assert ("drop +25.00 percentage points (95% interval" in text) == with_reference
    assert ("same prediction on 75.00% of the rows" in text) == with_reference
