"""How packages take their place: what is replaced, what is refused, and that both copies are never gone at once."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from optimum_ane.errors import OutputError
from optimum_ane.package import file_operations, staging
from optimum_ane.package.card_marker import marked
from optimum_ane.package.files import verify_files
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.recovery import clean
from optimum_ane.package.signals import Interrupted
from optimum_ane.package.staging import check_output, find_foreign, staged

VERSION_1 = Path(__file__).parent / "fixtures" / "version-1"


@pytest.fixture
def place(tmp_path):
    """An empty directory that packages go into."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


@pytest.fixture
def package(place):
    """A package with its documents."""
    return write_package(place / "out")


def write_package(directory, card="# A model\n"):
    shutil.copytree(VERSION_1, directory, dirs_exist_ok=True)
    (directory / "README.md").write_text(marked(card))
    (directory / "card.svg").write_text("<svg/>")
    (directory / "export_report.html").write_text("<html>")
    return directory


def content_of(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def without_exchange(monkeypatch):
    """A system on which two folders cannot change places."""
    monkeypatch.setattr(file_operations, "exchange", lambda first, second: False)


def test_directories_above_the_output_are_made(tmp_path):
    with staged(tmp_path / "a" / "b" / "out") as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / "a" / "b" / "out" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["out"]


def test_an_output_without_a_directory_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with staged(Path("out")) as directory:
        (directory / "file").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_empty_directory_is_filled(place):
    (place / "out").mkdir()
    with staged(place / "out") as directory:
        (directory / "file").write_text("x")
    assert (place / "out" / "file").read_text() == "x"


@pytest.mark.parametrize("kind", ["package", "file"])
def test_what_another_process_put_there_in_the_last_moment_stays(place, monkeypatch, kind):
    check = staging._check_replaceable
    begun = []

    def late(output, *arguments):
        check(output, *arguments)
        if begun:  # behind the last check, before the step that it is for
            write_package(output) if kind == "package" else output.write_text("a letter")
        begun.append(output)

    monkeypatch.setattr(staging, "_check_replaceable", late)
    with (
        pytest.raises(OutputError, match="came into being just now; choose another output"),
        staged(place / "out") as new,
    ):
        (new / "mine").touch()
    before = content_of(write_package(place / "expected")) if kind == "package" else "a letter"
    assert (content_of(place / "out") if kind == "package" else (place / "out").read_text()) == before
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_a_long_name_is_no_obstacle(place):
    with staged(place / ("ü" * 120)) as directory:
        (directory / "file").write_text("x")
    assert [path.name for path in place.iterdir()] == ["ü" * 120]


class TestOverwrite:
    def overwrite(self, package):
        with staged(package, overwrite=True) as directory:
            write_package(directory, "# Another\n")

    def test_a_package_and_its_documents_are_replaced(self, place, package):
        self.overwrite(package)
        assert "Another" in (package / "README.md").read_text()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_so_where_folders_cannot_change_places(self, place, package, without_exchange):
        self.overwrite(package)
        assert "Another" in (package / "README.md").read_text()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_what_the_finder_leaves_does_not_count(self, package):
        (package / "model.mlpackage" / ".DS_Store").write_bytes(b"?")
        self.overwrite(package)
        assert not (package / "model.mlpackage" / ".DS_Store").exists()

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("model.safetensors", "'model.safetensors'"),
            (".git/config", "'.git/'"),
            ("notes.txt", "'notes.txt'"),
            ("other/ane_config.json", "'other/'"),
            ("model.mlpackage/notes.txt", "'model.mlpackage/notes.txt'"),
            ("config.json.orig", "'config.json.orig'"),
            ("a/b/c", "'a/'"),
        ],
    )
    def test_what_is_foreign_is_named_and_stays(self, place, package, name, shown):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("years of work")
        before = content_of(place)
        with pytest.raises(OutputError) as caught:
            check_output(package, overwrite=True)
        assert shown in str(caught.value)
        with pytest.raises(OutputError, match="which overwriting would delete"):
            self.overwrite(package)
        assert content_of(place) == before

    def test_links_into_other_folders_are_foreign(self, package, tmp_path):
        (tmp_path / "data").mkdir()
        (package / "data").symlink_to(tmp_path / "data")
        with pytest.raises(OutputError, match="holds 'data', which"):
            self.overwrite(package)

    @pytest.mark.parametrize(
        "card", ["# By hand\n", marked("# A model") + "one line more\n", "\ud800\xff", "x" * 2**21]
    )
    def test_a_card_by_hand_is_named_and_stays(self, package, card):
        text = card.encode(errors="surrogatepass")
        (package / "README.md").write_bytes(text)
        with pytest.raises(OutputError, match=r"README\.md was written or edited by a person"):
            self.overwrite(package)
        assert (package / "README.md").read_bytes() == text

    def test_a_card_that_leads_to_a_device_is_not_read(self, package):
        (package / "README.md").unlink()
        (package / "README.md").symlink_to("/dev/zero")
        with pytest.raises(OutputError, match=r"README\.md was written or edited by a person"):
            self.overwrite(package)

    def test_of_a_package_that_cannot_be_read_all_is_foreign(self, package):
        (package / "ane_config.json").write_text("damaged")
        with pytest.raises(OutputError, match=r"'config\.json', .*'model\.mlpackage/'"):
            self.overwrite(package)

    def test_nothing_but_a_damaged_ane_config_is_replaced(self, place):
        (place / "out").mkdir()
        (place / "out" / "ane_config.json").write_text("damaged")
        self.overwrite(place / "out")
        assert Manifest.read(place / "out").files

    def test_a_hostile_list_does_not_make_another_folder_ours(self, package, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        text = (package / "ane_config.json").read_text()
        (package / "ane_config.json").write_text(text.replace('"tokenizer.json"', '"../../thesis.tex"'))
        with pytest.raises(OutputError, match=r"'tokenizer\.json'"):
            self.overwrite(package)
        (package / "tokenizer.json").unlink()
        self.overwrite(package)
        assert (tmp_path / "thesis.tex").read_text() == "years of work"

    def test_what_a_link_of_the_old_package_leads_to_stays(self, package, tmp_path):
        (package / "config.json").rename(tmp_path / "blob")
        (package / "config.json").symlink_to(tmp_path / "blob")
        self.overwrite(package)
        assert (tmp_path / "blob").is_file()
        assert not (package / "config.json").is_symlink()

    @pytest.mark.parametrize("output", [".", "", "..", "../out", "OUT"])
    def test_the_current_directory_and_those_above_are_refused(self, package, monkeypatch, output):
        monkeypatch.chdir(package)
        output = Path(package if output == "OUT" else output)
        before = content_of(package)
        with pytest.raises(OutputError, match="is the current directory or holds it"):
            check_output(output, overwrite=True)
        monkeypatch.chdir(package / "model.mlpackage")
        with pytest.raises(OutputError, match="is the current directory or holds it"):
            check_output(package, overwrite=True)
        assert content_of(package) == before

    def test_an_empty_current_directory_is_refused(self, place, monkeypatch):
        monkeypatch.chdir(place)
        with pytest.raises(OutputError, match="is the current directory or holds it"):
            check_output(Path("."), overwrite=False)

    def test_a_link_is_refused(self, package, place):
        (place / "link").symlink_to(package)
        with pytest.raises(OutputError, match="exists and is not a directory"):
            self.overwrite(place / "link")

    def test_sources_are_found_through_links(self, package, place):
        (place / "link").symlink_to(package)
        for source, output in (
            (package, package),
            (package, place / "link" / "inside"),
            (place / "link", package),
            (place / "link", package / "a" / "b"),
            (place, package),
        ):
            with pytest.raises(OutputError, match="or lies in it"):
                check_output(output, overwrite=True, sources=[source])
        check_output(place / "outer", overwrite=False, sources=[package, place / "nowhere"])

    def test_a_source_that_lies_in_the_output_is_foreign(self, package):
        source = write_package(package / "source")
        with pytest.raises(OutputError, match="holds 'source/'"):
            check_output(package, overwrite=True, sources=[source])


class TestMeanwhile:
    def test_what_appeared_is_not_replaced(self, place):
        stage = staged(place / "out")
        stage.__enter__()
        (place / "out").mkdir()
        (place / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="not empty"):
            stage.__exit__(None, None, None)
        assert [path.name for path in place.rglob("*")] == ["out", "thesis.tex"]

    def test_what_appeared_in_the_last_moment_is_put_back(self, place, package, monkeypatch):
        exchange = file_operations.exchange

        def late(first, second):
            (second / "thesis.tex").write_text("years of work")
            monkeypatch.setattr(file_operations, "exchange", exchange)
            return exchange(first, second)

        monkeypatch.setattr(file_operations, "exchange", late)
        with (
            pytest.raises(OutputError, match=r"was given 'thesis\.tex' just now"),
            staged(package, overwrite=True) as new,
        ):
            write_package(new, "# Another\n")
        assert (package / "thesis.tex").read_text() == "years of work"
        assert "A model" in (package / "README.md").read_text()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_if_the_last_step_fails_the_old_package_is_put_back(self, place, package, monkeypatch, without_exchange):
        rename = file_operations.rename

        def failing(source, target):
            if source.name == "content":
                raise OSError(errno.EIO, "Input/output error")
            return rename(source, target)

        monkeypatch.setattr(file_operations, "rename", failing)
        with pytest.raises(OutputError, match="Input/output error"), staged(package, overwrite=True) as new:
            write_package(new, "# Another\n")
        assert "A model" in (package / "README.md").read_text()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_if_it_cannot_be_put_back_either_it_is_kept(self, place, package, monkeypatch, without_exchange):
        rename = file_operations.rename

        def failing(source, target):
            if target == package:
                raise OSError(errno.EIO, "Input/output error")
            return rename(source, target)

        monkeypatch.setattr(file_operations, "rename", failing)
        with pytest.raises(OutputError, match="Input/output error"), staged(package, overwrite=True) as new:
            write_package(new, "# Another\n")
        (kept,) = place.rglob("replaced")
        assert "A model" in (kept / "README.md").read_text()

    def test_everything_is_on_the_disk_before_it_takes_its_place(self, place, monkeypatch):
        order = []
        for name in ("synchronize", "rename"):
            real = getattr(file_operations, name)
            monkeypatch.setattr(
                file_operations,
                name,
                lambda *paths, real=real, name=name: order.append((name, paths[0].name)) or real(*paths),
            )
        with staged(place / "out") as directory:
            write_package(directory)
            written = {path.name for path in directory.rglob("*")} | {"content"}
        moment = order.index(("rename", "content"))
        assert {name for kind, name in order[:moment] if kind == "synchronize"} == written
        assert order[moment + 1 :] == [("synchronize", "place")]


class TestKills:
    """Where folders cannot change places; see scripts/verification/crash_points.py for all else."""

    @pytest.fixture
    def killed(self, package, without_exchange):
        """A package of which the process died when the old one was away and the new one not there yet."""
        pid = os.fork()
        if not pid:
            real = file_operations.rename
            file_operations.rename = lambda source, target: os._exit(9) if target == package else real(source, target)
            with staged(package, overwrite=True) as new:
                write_package(new, "# Another\n")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert not package.exists()
        return package

    def test_the_next_run_puts_the_new_package_in_place(self, killed):
        assert clean(killed.parent).restored == (killed,)
        assert "Another" in (killed / "README.md").read_text()
        assert verify_files(killed, Manifest.read(killed)) is None
        assert [path.name for path in killed.parent.iterdir()] == ["out"]

    def test_so_does_a_run_that_may_not_overwrite_it(self, killed):
        with pytest.raises(OutputError, match="is not empty"):
            check_output(killed, overwrite=False)

    def test_and_one_beside_it(self, killed):
        with staged(killed.with_name("other")) as new:
            write_package(new)
        assert "Another" in (killed / "README.md").read_text()

    def test_the_old_one_where_the_new_one_is_gone(self, killed):
        (folder,) = killed.parent.iterdir()
        shutil.rmtree(folder / "content")
        assert clean(killed.parent).restored == (killed,)
        assert "A model" in (killed / "README.md").read_text()

    def test_what_was_put_there_meanwhile_stays(self, killed):
        killed.mkdir()
        (killed / "thesis.tex").write_text("years of work")
        assert clean(killed.parent).restored == ()
        assert [path.name for path in killed.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("name", ["../elsewhere", "..", "", "a/b"])
    def test_a_name_that_leads_elsewhere_is_not_followed(self, killed, tmp_path, name):
        (folder,) = killed.parent.iterdir()
        (folder / "replacing").write_text(name)
        clean(killed.parent)
        assert [path.name for path in tmp_path.rglob("*")] == ["place"]

    def test_a_copy_that_cannot_be_put_in_place_is_left(self, killed, monkeypatch):
        def fail(source, target):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(file_operations, "rename", fail)
        (left,) = clean(killed.parent).left
        assert (left / "replaced" / "README.md").exists()


class TestInterrupts:
    @pytest.mark.parametrize("step", ["exchange", "unlink"])
    def test_ctrl_c_in_the_last_steps_is_told_when_they_are_done(self, place, package, monkeypatch, step):
        real = getattr(file_operations, step)
        sent = []

        def interrupted(*paths):
            if not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
            return real(*paths)

        monkeypatch.setattr(file_operations, step, interrupted)
        with pytest.raises(Interrupted) as caught, staged(package, overwrite=True) as new:
            write_package(new, "# Another\n")
        assert caught.value.state == f"{package} is in place"
        assert "Another" in (package / "README.md").read_text()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_a_second_ctrl_c_while_it_is_cleaned_up_leaves_nothing(self, place, package, monkeypatch):
        real = file_operations.unlink

        def interrupted(path):
            os.kill(os.getpid(), signal.SIGINT)
            return real(path)

        before = content_of(package)
        monkeypatch.setattr(file_operations, "unlink", interrupted)
        stage = staged(package, overwrite=True)
        write_package(stage.__enter__(), "# Another\n")
        with pytest.raises(KeyboardInterrupt):
            stage.__exit__(KeyboardInterrupt, KeyboardInterrupt("the first"), None)
        assert content_of(package) == before
        assert [path.name for path in place.iterdir()] == ["out"]


def test_foreign_folders_are_named_once(package):
    for number in range(3):
        (package / "notes" / str(number)).mkdir(parents=True)
        (package / "notes" / str(number) / "file").write_text("x")
    (package / "empty").mkdir()
    assert find_foreign(package) == ["notes/"]
