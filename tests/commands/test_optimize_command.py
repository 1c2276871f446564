"""`optimum-cli ane optimize`: what it prints, and how it ends."""

import json
import re

import pytest
from command_line import run_command
from stock_packages import convert_encoder, save

from optimum_ane.commands.optimize import OptimizeCommand


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs the command beside a stock package; returns what it printed on stdout and stderr."""
    save(convert_encoder(), tmp_path / "stock.mlpackage")
    monkeypatch.chdir(tmp_path)

    def run(*line, code=0):
        run_command(OptimizeCommand, "optimize", line, code)
        return capsys.readouterr()

    return run


def test_a_table_before_and_after_and_what_a_second_run_says(command):
    printed = command("stock.mlpackage", "out.mlpackage")
    rows = dict(re.findall(r"│ (.+?) +│ (.+?) +│", printed.out))
    assert rows["operations"].isdigit()
    assert float(rows["% of the arithmetic on the engine"]) < 10
    assert re.search(r"hidden: (PSNR \d+\.\d dB against|equal to) the package before, 3 inputs, portable", printed.out)
    assert "nothing was changed" not in printed.out
    assert "for iOS17 or later" in printed.out
    assert printed.out.rstrip().endswith("out.mlpackage")
    assert "rewrite the program" in printed.err
    assert "Running MIL" not in printed.err  # coremltools' bars
    again = command("out.mlpackage", "again.mlpackage")
    assert "nothing was changed: the passes find nothing to gain" in again.out
    assert "hidden: equal to the package before" in again.out


def test_json_alone_is_on_stdout(command):
    answer = json.loads(command("stock.mlpackage", "out.mlpackage", "--json").out)
    function = answer["functions"]["main"]
    assert answer["changed"]
    assert answer["target"] == "iOS17"
    assert answer["runtime"] == "portable"
    assert function["before"]["share_on_ane"] < 0.1 < 0.95 < function["after"]["share_on_ane"]
    assert function["before"]["transposes"] > function["after"]["transposes"]
    assert list(function["psnr"]) == ["probabilities", "hidden"]
    again = json.loads(command("out.mlpackage", "again.mlpackage", "--json").out)
    assert not again["changed"]
    assert again["functions"]["main"]["psnr"] == {"probabilities": "equal", "hidden": "equal"}


def test_errors_are_one_line_in_the_words_of_the_command_line(command):
    command("stock.mlpackage", "out.mlpackage")
    printed = command("stock.mlpackage", "out.mlpackage", code=1)
    assert printed.err.splitlines()[-1] == (
        "error: out.mlpackage is not empty; choose another output or pass --overwrite"
    )
    command("stock.mlpackage", "out.mlpackage", "--overwrite")
