"""Folders of work under way: whose they are, and that those of the dead are removed and no others."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from optimum_ane.package import processes, working_folders
from optimum_ane.package.processes import Process
from optimum_ane.package.recovery import clean
from optimum_ane.package.working_folders import WorkingFolder, find_working, partial_name, partial_path

_CHILD = """
import os, sys, time
from pathlib import Path
from optimum_ane.package.working_folders import WorkingFolder, partial_path
folder = WorkingFolder(partial_path(Path(sys.argv[1]) / "out"))
(folder.path / "inner").mkdir()
(folder.path / "inner" / "weights").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that works in a folder, with that folder."""
    process = subprocess.Popen([sys.executable, "-c", _CHILD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_goes_with_its_block_and_with_its_object(tmp_path):
    with WorkingFolder(partial_path(tmp_path / "out")) as path:
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "file").write_text("x")
    folder = WorkingFolder(partial_path(tmp_path / "out"))
    assert folder.path.is_dir()
    del folder
    assert list(tmp_path.iterdir()) == []


def test_one_whose_process_runs_is_left(tmp_path, other):
    _, path = other
    mine = WorkingFolder(partial_path(tmp_path / "out"))
    assert set(clean(tmp_path).left) == {path, mine.path}
    assert (path / "inner" / "weights").exists()


def test_one_whose_process_was_killed_is_removed(tmp_path, other):
    process, path = other
    process.kill()
    process.wait()
    assert clean(tmp_path).removed == (path,)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ended_and_is_still_listed_is_dead(tmp_path, other):
    process, path = other
    process.kill()
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        pytest.skip("needs /proc")
    while ") Z " not in stat.read_text():
        time.sleep(0.01)
    assert clean(tmp_path).removed == (path,)


def test_one_of_an_earlier_process_with_the_same_number_is_removed(tmp_path):
    this = Process.this()
    for change in ({"start": this.start - 1}, {"boot": "0" * 8}):
        (tmp_path / f".out.{replace(this, **change)}-00000000.partial").mkdir()
    assert len(clean(tmp_path).removed) == 2


def test_what_cannot_be_looked_up_is_left(tmp_path):
    """On another machine, in whose number there is a process here or not."""
    this = Process.this()
    for pid in (this.pid, 4_000_000):
        (tmp_path / f".out.{Process(pid, 1, '0' * 8, '1' * 8)}-00000000.partial").mkdir()
    assert len(clean(tmp_path).left) == 2


def test_in_another_container_of_this_machine_the_lock_tells(tmp_path):
    path = tmp_path / f".out.{Process(1, 1, Process.this().boot, '1' * 8)}-00000000.partial"
    path.mkdir()
    assert clean(tmp_path).left == (path,)  # it may be about to be locked
    os.utime(path, (time.time() - 100,) * 2)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert clean(tmp_path).left == (path,)
    os.close(descriptor)
    assert clean(tmp_path).removed == (path,)


def test_a_folder_is_locked_while_its_process_works_in_it(other):
    _, path = other
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_copy_of_the_process_removes_nothing(tmp_path):
    folder = WorkingFolder(partial_path(tmp_path / "out"))
    pid = os.fork()
    if not pid:
        folder.remove()
        os._exit(0)
    os.waitpid(pid, 0)
    assert folder.path.is_dir()


@pytest.mark.parametrize("name", [".out.partial", ".out.abc.partial", "out", ".out.1-2-3-4-5.partial", "mine.partial"])
def test_other_names_are_nobodys(tmp_path, name):
    (tmp_path / name).mkdir()
    assert find_working(tmp_path) == []


def test_links_and_files_of_other_users_are_nobodys(tmp_path, monkeypatch):
    dead = Process(Process.this().pid, 1, Process.this().boot, Process.this().place)
    (tmp_path / "precious").mkdir()
    (tmp_path / f".out.{dead}-00000000.partial").symlink_to(tmp_path / "precious")
    assert find_working(tmp_path) == []
    (tmp_path / f".out.{dead}-11111111.partial").mkdir()
    assert len(find_working(tmp_path)) == 1
    monkeypatch.setattr(working_folders.os, "geteuid", lambda: 12345)
    assert find_working(tmp_path) == []


def test_links_inside_are_removed_and_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with WorkingFolder(partial_path(tmp_path / "out")) as path:
        (path / "folder").symlink_to(tmp_path / "precious")
        (path / "file").symlink_to(tmp_path / "precious" / "thesis.tex")
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years of work"
    assert [each.name for each in tmp_path.iterdir()] == ["precious"]


def test_the_systems_folder_is_cleaned_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    this = Process.this()
    dead = tmp_path / f"optimum-ane-{Process(this.pid, 1, this.boot, this.place)}-00000000.partial"
    dead.mkdir()
    others = tmp_path / f".out.{Process(this.pid, 1, this.boot, this.place)}-00000000.partial"
    others.mkdir()  # it may hold a package, and is cleaned by who works there
    with WorkingFolder.temporary() as path:
        assert path.name.startswith("optimum-ane-")
        assert not dead.exists()
        assert others.exists()


def test_processes_are_told_apart_without_proc(monkeypatch):
    """As on macOS, by ps."""
    if not working_folders.Path("/bin/ps").exists() and not working_folders.Path("/usr/bin/ps").exists():
        pytest.skip("needs ps")
    monkeypatch.setattr(processes, "_PROC", Path("/nowhere"))
    this = Process.this()
    assert this.runs
    assert abs(this.start - time.time()) < 10 * 24 * 3600
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = Process(child.pid, processes._start_of(child.pid), this.boot, this.place)
    assert process.runs
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert process.runs is False


def test_names_fit_into_a_file_system():
    assert len(partial_name("." + "漢" * 200 + ".").encode()) < 255
