"""`optimum-cli ane compress`: arguments in, a package or one line of error out."""

import json

import pytest
from command_line import run_command

from optimum_ane.commands.compress import CompressCommand
from optimum_ane.compression import recipe_names


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty directory; returns what it printed on stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*line, code=0):
        run_command(CompressCommand, "compress", line, code)
        return capsys.readouterr()

    return run


@pytest.fixture
def package(tiny_package):
    return tiny_package("distilbert", "text-classification")


def test_a_package_becomes_a_smaller_one(command, package, tmp_path):
    printed = command(package, "int8", "small", "--no-reference")
    config = json.loads((tmp_path / "small" / "ane_config.json").read_text())
    assert config["compression"] == "int8"
    assert "int8 per channel (gather)" in printed.out
    assert "of float16" in printed.out
    assert "dB against the package before" in printed.out
    assert "small/" in printed.out
    assert "compress (int8)" in printed.err
    assert "Running MIL" not in printed.err  # coremltools' bars
    report = json.loads((tmp_path / "small" / "export_report.json").read_text())
    assert report["command"] == "optimum-cli ane compress package int8 out/"


def test_a_recipe_of_ones_own_goes_by_its_files_name(command, package, tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: [{kind: quantize, global: {dtype: uint8, mode: linear}}]\n")
    command(package, "mine.yaml", "small", "--no-reference")
    assert json.loads((tmp_path / "small" / "ane_config.json").read_text())["compression"] == "mine"


def test_the_list_names_every_recipe_with_its_system_and_advice(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = command("--list").out
    for name in recipe_names():
        assert f" {name} " in printed
    assert "iOS16" in printed
    assert "iOS18" in printed
    assert "Take int8 instead" in printed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["PACKAGE", "int9", "out"], ["there is no recipe 'int9'", "did you mean 'int8'"]),
        (["PACKAGE", "palette4-g16", "out"], ["needs iOS18", "--minimum-deployment-target iOS18"]),
        (["PACKAGE", "palette4-scale", "out"], ["wrong axis", "palette4-g16"]),
        (["/nowhere", "int8", "out"], ["/nowhere"]),
        (["PACKAGE", "int8", "full"], ["full is not empty", "--overwrite"]),
        (["PACKAGE", "int8", "out", "--reference", "/nowhere"], ["there is no directory /nowhere"]),
        (["PACKAGE", "int8", "out", "--psnr-threshold", "99", "--no-reference"], ["99.0 are asked for"]),
        (["PACKAGE", "int8", "out", "--max-samples", "3"], ["--max-samples says nothing without a dataset"]),
    ],
)
def test_errors_are_one_line_and_exit_code_1(command, package, tmp_path, line, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    printed = command(*(package if word == "PACKAGE" else word for word in line), code=1)
    errors = [text for text in printed.err.splitlines() if not text.startswith("[")]
    assert len(errors) == 1, printed.err
    assert errors[0].startswith("error: ")
    assert all(word in errors[0] for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_missing_arguments_are_named(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command("out")
    assert ended.value.code == 2
    assert "RECIPE and OUTPUT must be given" in capsys.readouterr().err
