"""Kills at the steps that change files: all where packages and files take their place, some of each workflow."""

import shutil
from unittest import mock

import pytest
from verification.crash_points import TinyPackage, Workflow, kill_everywhere, workflows

from optimum_ane.package import file_operations, staging
from optimum_ane.package.card_marker import marked
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.staging import staged


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyPackage(tmp_path_factory.mktemp("crashes") / "tiny")


@pytest.fixture
def kill(tiny, tmp_path):
    return lambda workflow, most=None: kill_everywhere(workflow, tiny, tmp_path / "places", most)


@pytest.fixture
def put_in_place(tiny):
    """A run that puts another package in the place of `out`, and does nothing else."""

    def run(place):
        with staged(place / "out", overwrite=True) as directory:
            shutil.copytree(tiny.package, directory, dirs_exist_ok=True)
            (directory / "README.md").write_text(marked("# Another\n"))

    return run


@pytest.fixture
def put_in_place_in_steps(put_in_place):
    def run(place):
        with mock.patch.object(file_operations, "exchange", return_value=False):
            put_in_place(place)

    return run


def test_a_new_package_at_every_point(kill, put_in_place):
    result = kill(Workflow("new", put_in_place))
    assert result.tried == result.points > 15
    assert not result.found


def test_a_replaced_package_at_every_point(kill, put_in_place):
    result = kill(Workflow("replace", put_in_place, before=["out"]))
    assert result.tried == result.points > 30
    assert not result.found


def test_without_exchange_the_next_run_restores_what_is_absent(kill, put_in_place_in_steps):
    result = kill(Workflow("replace", put_in_place_in_steps, before=["out"], has_exchange=False))
    assert result.tried == result.points > 35
    assert set(result.found) == {"absent"}
    assert result.found["absent"] == 1  # between the two renames


def test_a_file_at_every_point(kill):
    def run(place):
        write_file(place / "source" / "export_report.html", "new\n" * 100)

    result = kill(Workflow("file", run, outputs=[], before=["source"]))
    assert result.tried == result.points == 6
    assert not result.found


@pytest.mark.parametrize("number", range(8))
def test_some_points_of_each_workflow(kill, tiny, number):
    result = kill(workflows(tiny)[number], most=1)
    assert result.tried == 1
    assert set(result.found) <= {"absent"}


class TestWhatIsFound:
    """Each kind of harm is seen where it is done."""

    def test_litter(self, kill, put_in_place):
        def run(place):
            with mock.patch.object(staging, "clean"):
                put_in_place(place)

        assert kill(Workflow("litter", run), most=5).found["litter"] == 5

    def test_a_loss(self, kill, tiny):
        def run(place):
            shutil.rmtree(place / "out", ignore_errors=True)
            (place / "out").mkdir()
            for path in sorted(tiny.package.rglob("*"))[::-1]:
                if path.is_file():
                    target = place / "out" / path.relative_to(tiny.package)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
                    file_operations.synchronize(target)

        assert kill(Workflow("in place", run, before=["out"]), most=3).found["loss"] >= 2
