"""`optimum-cli ane clean`, and what a killed export leaves for it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import run_command
from tiny_models import save_checkpoint

from optimum_ane.commands.clean import CleanCommand
from optimum_ane.package.working_folders import WorkingFolder, partial_path

_EXPORT = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_killed_export_is_cleaned_up(tmp_path, temporary, capsys):
    save_checkpoint(tmp_path / "checkpoint", "distilbert", "text-classification")
    place = tmp_path / "place"
    place.mkdir()
    line = ["export", "ane", "--model", tmp_path / "checkpoint", "--sequence-length", "16", place / "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", _EXPORT, *line],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("[3/8]"):  # now it traces and converts
            time.sleep(0.2)
            process.kill()
    assert process.wait() == -signal.SIGKILL
    (left,) = place.iterdir()
    assert list(temporary.iterdir()) == []  # coremltools' files are in ours

    run_command(CleanCommand, "clean", [place])
    assert capsys.readouterr().out == f"removed: {left}\n"
    assert list(place.iterdir()) == []
    run_command(CleanCommand, "clean", [place])
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_belongs_to_a_running_process_is_named(tmp_path, temporary, capsys):
    with WorkingFolder(partial_path(tmp_path / "out")) as mine, WorkingFolder.temporary() as other:
        run_command(CleanCommand, "clean", [tmp_path])
        printed = capsys.readouterr().out.splitlines()
        assert printed == [
            f"left, its process runs or cannot be looked up from here: {path}" for path in (mine, other)
        ]
        assert mine.is_dir()


def test_the_current_directory_is_the_default(tmp_path, temporary, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_command(CleanCommand, "clean", [])
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_directory_that_is_not_there(tmp_path, capsys):
    run_command(CleanCommand, "clean", [tmp_path / "nowhere"], code=1)
    assert "there is no directory" in capsys.readouterr().err
