import json
from argparse import ArgumentParser
from dataclasses import fields

import pytest
from optimum.commands.base import CommandInfo

from optimum_ane.commands.dataset_arguments import (
    accuracy_limits_from_args,
    add_dataset_arguments,
    dataset_spec_from_args,
)
from optimum_ane.commands.evaluate import EvaluateCommand
from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.accuracy import AccuracyLimits
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.report import AccuracyReport, ModelScore


def report(drop=0.25):
    score = ModelScore({"accuracy": 0.9}, 9, 10.0, 10)
    return AccuracyReport(
        dataset="dev.tsv", rows=10, truncated=0, metric_config="accuracy", label_mapping="by id",
        problem_type="single_label_classification", sequence_length=128, runtime="portable",
        primary_metric="accuracy", package=score, original=None if drop is None else score, drop=drop,
        drop_interval=None if drop is None else (-1.0, 1.5), agreement=None if drop is None else 1.0,
        psnr=None if drop is None else 70.0, resamples=2000, confidence=0.95, machine="Test", versions={"torch": "2"},
    )  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """Runs the command on a line of arguments; returns what the evaluation was called with."""
    called = {}

    def command(*line, drop=0.25):
        def evaluate_package(package, spec, **options):
            called.update(package=package, spec=spec, **options)
            return report(drop if options["with_reference"] else None)

        monkeypatch.setattr("optimum_ane.workflows.evaluate.evaluate_package", evaluate_package)
        parser = ArgumentParser()
        EvaluateCommand(parser.add_subparsers(), command=CommandInfo(name="evaluate", help=""))
        args = parser.parse_args(["evaluate", *line])
        args.func(args).run()
        return called

    return command


def test_options_reach_the_evaluation(run, capsys):
    line = (
        "out --dataset glue --dataset-config sst2 --split validation --text-column a --text-pair-column 1 "
        "--label-column c --choices-column x,2 --max-samples 7 --reference model --runtime portable "
        "--trust-remote-code"
    )
    assert run(*line.split()) == {
        "package": "out",
        "spec": DatasetSpec("glue", "sst2", "validation", "a", "1", "c", 7, ("x", "2")),
        "reference": "model",
        "with_reference": True,
        "runtime": "portable",
        "trust_remote_code": True,
    }
    assert "Accuracy on dev.tsv" in capsys.readouterr().out


def test_report_as_json(run, tmp_path):
    run("out", "--dataset", "dev.tsv", "--output", str(tmp_path / "report.json"))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["package"]["metrics"] == {"accuracy": 0.9}
    assert written["drop_interval"] == [-1.0, 1.5]


def test_drop_beyond_the_limit_fails_after_the_report(run, tmp_path, capsys):
    run("out", "--dataset", "dev.tsv", drop=1.0)
    for limit in ([], ["--max-accuracy-drop", "1.5"]):
        with pytest.raises(SystemExit) as ended:
            run("out", "--dataset", "dev.tsv", "--output", str(tmp_path / "report.json"), *limit, drop=2.0)
        assert ended.value.code == 1
        output = capsys.readouterr()
        assert "Accuracy on dev.tsv" in output.out
        assert output.err.startswith("error: the package is worse than the original by 2.00 points")
        assert len(output.err.splitlines()) == 1
    assert json.loads((tmp_path / "report.json").read_text())["drop"] == 2.0
    run("out", "--dataset", "dev.tsv", "--max-accuracy-drop", "3", drop=2.0)


def test_without_reference(run, capsys):
    assert run("out", "--dataset", "dev.tsv", "--no-reference")["with_reference"] is False
    with pytest.raises(SystemExit) as ended:
        run("out", "--dataset", "dev.tsv", "--no-reference", "--max-accuracy-drop", "1")
    assert ended.value.code == 1
    assert "--max-accuracy-drop and the like, need the original's score" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "nowhere/report.json"])
def test_report_that_cannot_be_written_is_refused_first(run, capsys, tmp_path, place):
    with pytest.raises(SystemExit) as ended:
        run("out", "--dataset", "dev.tsv", "--output", str(tmp_path / place))
    assert ended.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "name a file" in output.err or "there is no directory" in output.err


@pytest.mark.parametrize(
    "line",
    [[], ["--dataset", "d", "--reference", "m", "--no-reference"], ["--dataset", "d", "--max-samples", "0"],
     ["--dataset", "d", "--max-accuracy-drop", "nan"], ["--dataset", "d", "--max-accuracy-drop", "-1"],
     ["--dataset", "d", "--runtime", "cuda"], ["--dataset", "d", "--min-iou", "98"]],
)  # fmt: skip
def test_usage_errors(run, line):
    with pytest.raises(SystemExit) as ended:
        run("out", *line)
    assert ended.value.code == 2


def test_every_limit_has_an_option():
    parser = ArgumentParser()
    add_dataset_arguments(parser)
    assert accuracy_limits_from_args(parser.parse_args([])) is None
    limits = {entry.name: 0.25 + index / 10 for index, entry in enumerate(fields(AccuracyLimits))}
    line = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert accuracy_limits_from_args(parser.parse_args(line)) == AccuracyLimits(**limits)
    assert accuracy_limits_from_args(parser.parse_args(["--max-kl", "0.1"])) == AccuracyLimits(max_kl=0.1)


def test_the_column_of_images_is_an_option():
    parser = ArgumentParser()
    add_dataset_arguments(parser)
    args = parser.parse_args(["--dataset", "d", "--image-column", "picture"])
    assert dataset_spec_from_args(args) == DatasetSpec("d", image_column="picture")


def test_dataset_options_of_another_command():
    parser = ArgumentParser()
    add_dataset_arguments(parser, "--eval-dataset")
    assert dataset_spec_from_args(parser.parse_args([])) is None
    assert dataset_spec_from_args(parser.parse_args(["--eval-dataset", "a.tsv"])) == DatasetSpec("a.tsv")
    with pytest.raises(DatasetError, match="split, max_samples says nothing without a dataset"):
        dataset_spec_from_args(parser.parse_args(["--split", "test", "--max-samples", "3"]))
