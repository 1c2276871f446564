"""Single files in a user's place: no fault destroys what was there."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from small_disks import mounted

from optimum_ane.errors import OutputError
from optimum_ane.package import file_operations
from optimum_ane.package.file_writing import replacing_file, write_file


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "report.json"
    for content in ("one\n", "zwei ü\r\n", b"\x00three"):
        write_file(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, 64):
        write_file(disk / "page.html", "old")
        with pytest.raises(OutputError, match=r"page\.html cannot be written: No space left on device; name another"):
            write_file(disk / "page.html", "x" * 100_000)
        assert (disk / "page.html").read_text() == "old"
        assert [path.name for path in disk.iterdir()] == ["page.html"]


@pytest.mark.parametrize("step", ["create", "write", "synchronize", "rename"])
@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_fault_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step, fault):
    (tmp_path / "file").write_text("old")

    def fail(*_):
        raise fault

    monkeypatch.setattr(file_operations, step, fail)
    with pytest.raises(OutputError if isinstance(fault, OSError) else KeyboardInterrupt):
        write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    program = (
        "import os, sys\nfrom optimum_ane.package.file_writing import replacing_file\n"
        "with replacing_file(sys.argv[1]) as file:\n    file.write(b'new')\n    os.kill(os.getpid(), 9)\n"
    )
    write_file(tmp_path / "file", "old")
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "file"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "file").read_text() == "old"
    write_file(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_text("old")
    (tmp_path / "link").symlink_to("folder/target")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "target").read_text() == "new"


def test_permissions_stay(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    mask = os.umask(0o027)
    try:
        write_file(tmp_path / "fresh", "new")
    finally:
        os.umask(mask)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o640


def test_what_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr("optimum_ane.package.file_writing.os.access", lambda *_: False)  # root may write everything
    with pytest.raises(OutputError, match="Permission denied"):
        write_file(tmp_path / "file", "new")


def test_devices_and_pipes_are_written_to(tmp_path):
    write_file("/dev/null", "x")
    assert not os.path.isfile("/dev/null")
    reader, writer = os.pipe()
    write_file(f"/dev/fd/{writer}", "through a pipe")
    os.close(writer)
    assert os.read(reader, 100) == b"through a pipe"
    os.close(reader)
    with (tmp_path / "redirected").open("w+b") as file:
        write_file(f"/dev/fd/{file.fileno()}", "into an open file")
        file.seek(0)
        assert file.read() == b"into an open file"


@pytest.mark.parametrize(("name", "reason"), [("nowhere/file", "No such file"), (".", "Is a directory")])
def test_impossible_places_are_named(tmp_path, name, reason):
    with pytest.raises(OutputError, match=f"cannot be written: {reason}"):
        write_file(tmp_path / name, "x")


def test_an_error_of_the_block_is_its_own(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing_file(tmp_path / "file"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
