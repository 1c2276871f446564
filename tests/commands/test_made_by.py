"""How a package was made, as its report and its card say: to copy, without secrets and without paths."""

import json
import shlex

import pytest

from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.form import ExportForm
from optimum_ane.workflows import export as export_workflow
from optimum_ane.workflows.command_line import command_line, public_name, python_call


@pytest.fixture
def made_by(monkeypatch, capsys, tmp_path):
    """Runs the real command line up to the export, and gives the words that would be recorded."""
    from optimum.commands import optimum_cli

    def run(*line):
        seen = {}

        def export(*_, **options):
            seen.update(options)
            raise SystemExit(0)

        monkeypatch.setattr(export_workflow, "export_checkpoint", export)
        monkeypatch.setattr("sys.argv", ["optimum-cli", "export", "ane", *map(str, line)])
        with pytest.raises(SystemExit):
            optimum_cli.main()
        return shlex.split(seen["command"])

    return run


def test_defaults_are_left_out(made_by):
    assert made_by("--model", "some/one", "out") == ["optimum-cli", "export", "ane", "--model", "some/one", "out/"]


def test_every_option_that_was_given_is_there(made_by):
    line = (
        "--task feature-extraction --sequence-length 64 --batch-size 2 --precision float32 "
        "--minimum-deployment-target iOS17 --compute-units all --pooling mean --normalize --psnr-threshold 70.0 "
        "--eval-dataset glue --dataset-config sst2 --split validation --max-samples 9 --max-accuracy-drop 0.5 "
        "--revision v1 --trust-remote-code"
    )
    options = line.split()
    words = made_by("--model", "some/one", *options, "out")
    assert words[:5] == ["optimum-cli", "export", "ane", "--model", "some/one"]
    assert sorted(words[5:-1]) == sorted(options)
    again = made_by(*words[3:])
    assert again == words


@pytest.mark.parametrize("flag", [["--token", "hf_secret"], ["--token=hf_secret"], ["--tok", "hf_secret"]])
def test_a_token_is_nowhere(made_by, flag):
    words = made_by("--model", "some/one", *flag, "--cache-dir", "/home/anna/cache", "--overwrite", "/home/anna/x/")
    assert words == ["optimum-cli", "export", "ane", "--model", "some/one", "out/"]


def test_directories_and_files_are_given_by_their_names(made_by, tmp_path):
    (tmp_path / "my model").mkdir()
    (tmp_path / "it's.tsv").write_text("a\t1\n")
    words = made_by("--model", tmp_path / "my model", "--eval-dataset", tmp_path / "it's.tsv", tmp_path / "out")
    assert words[3:] == ["--model", "my model", "--eval-dataset", "it's.tsv", "out/"]


def test_words_are_quoted_for_a_shell():
    line = command_line("optimum-cli export ane", {"--model": "a; rm -rf $HOME `x`", "--normalize": True, "--x": None})
    assert shlex.split(line) == [
        "optimum-cli",
        "export",
        "ane",
        "--model",
        "a; rm -rf $HOME `x`",
        "--normalize",
        "out/",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/model", "org/model"),
        ("glue", "glue"),
        ("/home/anna/dev.tsv", "dev.tsv"),
        ("../data/dev.tsv", "dev.tsv"),
        ("~/dev.tsv", "dev.tsv"),
        ("nyu-mll/glue/sst2, split validation", "nyu-mll/glue/sst2, split validation"),
        ("glue/sst2, split validation", "glue/sst2, split validation"),
    ],
)
def test_public_names(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_name(name) == expected


def test_a_directory_is_called_by_its_name_however_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "reviews" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "reviews")
    assert public_name(".") == "reviews"
    assert public_name("inner/") == "inner"
    monkeypatch.chdir(tmp_path)
    assert public_name("reviews/inner") == "inner"


def test_a_call_from_python_names_what_is_not_by_default():
    dataset = DatasetSpec("/home/anna/dev.tsv", text_column="1")
    call = python_call(
        "'org/model'",
        ExportForm("text-classification", sequence_length=64),
        dataset,
        {"max_accuracy_drop": (0.5, 1.0), "validate": (True, True)},
    )
    assert call == (
        "optimum_ane.export('org/model', 'out', task='text-classification', sequence_length=64, "
        "eval_dataset=DatasetSpec(dataset='dev.tsv', text_column='1'), max_accuracy_drop=0.5)"
    )


def test_a_model_in_memory_is_called_model(tiny_package):
    report = json.loads((tiny_package("bert", "fill-mask") / "export_report.json").read_text())
    assert report["command"].startswith("optimum_ane.export(model, 'out', task='fill-mask'")


def test_several_lengths_are_words_of_their_own_and_the_output_may_follow(made_by):
    line = ["--model", "some/one", "--sequence-length", "32", "64", "128"]
    assert made_by(*line, "out") == ["optimum-cli", "export", "ane", *line, "out/"]
    assert made_by("out", *line) == ["optimum-cli", "export", "ane", *line, "out/"]
