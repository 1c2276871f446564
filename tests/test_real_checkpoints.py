"""A shared checkpoint, from the directory to the score on the whole of SST-2's dev set."""

import json

import pytest
from transformers import AutoTokenizer, pipeline

from optimum_ane import ANEModelForSequenceClassification, export

NAME, RIGHT = "distilbert-sst2", 775
ROWS = 872


@pytest.fixture(scope="module")
def result(shared, tmp_path_factory):
    directory = tmp_path_factory.mktemp(NAME) / "out"
    model, dataset = shared / "models" / NAME, shared / "data" / "sst2" / "dev.tsv"
    for path in (model, dataset):
        if not path.exists():
            pytest.skip(f"needs {path}, which is not part of the repository")
    return export(model, directory, eval_dataset=str(dataset), quiet=True)


def test_accuracy_is_that_of_the_original(result):
    assert result.accuracy.rows == ROWS
    assert result.accuracy.package.metrics["accuracy"] * ROWS == pytest.approx(RIGHT, abs=1.001)
    assert result.accuracy.original.metrics["accuracy"] * ROWS == pytest.approx(RIGHT, abs=1.001)
    assert abs(result.accuracy.drop) <= 0.12  # points; one row of 872


def test_predictions_agree_and_logits_are_close(result):
    assert result.accuracy.agreement >= 0.998
    assert result.accuracy.psnr >= 65
    assert result.report.module_psnr["logits"] >= 90
    assert result.report.package_psnr["logits"] >= 55


def test_the_report_and_the_card_hold_the_numbers(result):
    report = json.loads((result.path / "export_report.json").read_text())
    assert report["accuracy"]["rows"] == ROWS
    assert f"{result.accuracy.package.metrics['accuracy']:.2%}" in (result.path / "README.md").read_text()


def test_a_pipeline_gives_a_prediction(result):
    model = ANEModelForSequenceClassification.from_pretrained(result.path)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(result.path))
    fine, dull = classify(["a gripping, moving film", "a dull and lifeless mess"])
    assert (fine["label"], dull["label"]) == ("POSITIVE", "NEGATIVE")
    assert min(fine["score"], dull["score"]) > 0.9
