import json
from argparse import ArgumentParser

import pytest
from optimum.commands.base import CommandInfo
from tiny_models import save_checkpoint

from optimum_ane import export
from optimum_ane.commands.benchmark import BenchmarkCommand


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    save_checkpoint(folder / "checkpoint", "distilbert", "text-classification")
    export(str(folder / "checkpoint"), folder / "out", sequence_length=16, validate=False, quiet=True)
    return folder / "out"


@pytest.fixture
def run(capsys):
    """Runs the command; returns exit code, stdout and stderr."""

    def run(*arguments):
        parser = ArgumentParser()
        BenchmarkCommand(parser.add_subparsers(), command=CommandInfo(name="benchmark", help=""))
        code = 0
        try:
            args = parser.parse_args(["benchmark", *map(str, arguments)])
            args.func(args).run()
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_a_table_and_writes_report_and_picture(run, package, tmp_path):
    options = ("--no-stock", "--iterations", 5, "--warmup", 1, "--pause", 0, "--threads", 1)
    code, out, err = run(package, *options, "--output", tmp_path / "r.json", "--plot", tmp_path / "p.png")
    assert code == 0, err
    for words in ("this package", "original", "portable", "PyTorch, CPU", "no statement about an App"):
        assert words in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert [row["kind"] for row in report["rows"]] == ["package", "original"]
    assert report["settings"]["iterations"] == 5
    assert report["machine"]["threads"] == 1
    assert (tmp_path / "p.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plot", "picture.bmp"), "a picture ends in one of"),
        (("--output", "no/such/report.json"), "there is no directory no/such"),
        (("--compute-units", "all"), "needs macOS"),
        (("--sequence-length", "4000"), "sequence length 4000 is above the 40 positions"),
    ],
)
def test_what_cannot_work_ends_in_one_line(run, package, arguments, words, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    code, _, err = run(package, *arguments)
    assert code == 1
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--iterations", "0"), ("--pause", "-1"), ("--pause", "nan"), ("--batch", "x")])
def test_numbers_out_of_range_are_refused(run, package, arguments):
    code, _, err = run(package, *arguments)
    assert code == 2
    assert arguments[0] in err
