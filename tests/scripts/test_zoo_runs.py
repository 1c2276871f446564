"""The zoo on tiny checkpoints: failures, reruns, kills; each package made by a process of its own."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zoo
from model_zoo.catalog import make_jobs, read_catalog
from model_zoo.run import make_plans
from model_zoo.worker import Order, carry_out
from zoo_lists import make_entries, write

from optimum_ane import ANEModelForSequenceClassification
from optimum_ane.errors import CheckpointError
from optimum_ane.package.files import verify_files
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.processes import Process


def summary(output):
    return {row["job"]: row for row in json.loads((output / "summary.json").read_text())}


def state(output):
    """Each file with its content and the time of its last change."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "summary.json"]
    return {str(p.relative_to(output)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest()) for p in files}


def packages(files):
    return {name: value for name, value in files.items() if name.startswith("packages/")}


def run(path, output, *arguments):
    return zoo.main([str(path), "--output", str(output), "--no-publish", "--threads", "1", *arguments])


def start(path, output, *arguments):
    command = [sys.executable, zoo.__file__, str(path), "--output", str(output), "--no-publish", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition, seconds=180):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def is_free(path):
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, checkpoints):
    """The output of three jobs, one of which failed; with the exit code. Its packages are used again by the tests."""
    folder = tmp_path_factory.mktemp("first")
    entries = make_entries(checkpoints)
    path = write(folder / "list.yaml", entries["broken"], entries["classifier"], entries["embedder"])
    return run(path, folder / "out", "--jobs", "2"), folder / "out"


@pytest.fixture
def output(first_run, tmp_path):
    """A copy of it, times of change included."""
    return shutil.copytree(first_run[1], tmp_path / "out")


def test_one_failure_does_not_stop_the_rest(first_run):
    code, output = first_run
    rows = summary(output)
    assert code == 1
    assert {name: row["status"] for name, row in rows.items()} == {
        "broken/seq8": "failed",
        "classifier/seq8-int8": "done",
        "embedder/seq8": "done",
    }
    assert "truncated or corrupt" in rows["broken/seq8"]["reason"]
    assert not (output / "packages" / "broken" / "seq8").exists()
    assert "error: " in (output / "logs" / "broken" / "seq8.log").read_text()


def test_the_summary_holds_what_the_export_measured(first_run):
    row = summary(first_run[1])["classifier/seq8-int8"]
    package = Path(row["package"])
    manifest = Manifest.read(package)
    verify_files(package, manifest)
    report = json.loads((package / "export_report.json").read_text())
    assert row["bytes"] == sum(p.stat().st_size for p in (package / "model.mlpackage").rglob("*") if p.is_file())
    assert row["psnr"] == min(report["package_psnr"].values()) > 20
    assert manifest.compression == "int8"
    assert ANEModelForSequenceClassification.from_pretrained(package).manifest.form.longest == 8


def test_an_unchanged_rerun_does_nothing(output, write_list, entries, capsys):
    before = state(output)
    assert run(write_list(entries["classifier"], entries["embedder"]), output) == 0
    assert {row["status"] for row in summary(output).values()} == {"unchanged"}
    assert state(output) == before
    assert "2 unchanged" in capsys.readouterr().out


def test_a_changed_entry_is_made_again_even_if_it_is_killed_in_the_middle(output, write_list, entries):
    before = packages(state(output))
    path = write_list(entries["classifier"], entries["embedder"] | {"normalize": True})
    record = output / "records" / "embedder" / "seq8.json"
    process = start(path, output)
    wait_for(lambda: list(output.rglob(".seq8.*.partial")) or process.poll() is not None)
    process.kill()
    process.communicate()
    # The worker does not outlive the one that was killed, and the package is as it was.
    wait_for(lambda: is_free(record.with_suffix(".lock")), 10)
    assert json.loads(record.read_text())["package"] is None
    assert packages(state(output)) == before | {
        name: value for name, value in packages(state(output)).items() if ".partial/" in name
    }
    of_another_machine = Process(1, 1, "0" * 8, "0" * 8)
    (output / "packages" / "embedder" / f".seq8.{of_another_machine}-00000000.partial").mkdir()

    assert run(path, output) == 0
    assert {name: row["status"] for name, row in summary(output).items()} == {
        "classifier/seq8-int8": "unchanged",
        "embedder/seq8": "done",
    }
    after = packages(state(output))
    assert {name for name in before if after[name] != before[name]} == {n for n in before if "/embedder/" in n}
    assert Manifest.read(output / "packages" / "embedder" / "seq8").form.normalize
    assert not list(output.rglob("*.partial"))


def steps_of(path, output):
    plans = make_plans(make_jobs(read_catalog(path), None), output, None)
    return {plan.job.id: plan.steps for plan in plans}


class TestWhatIsDone:
    @pytest.fixture
    def path(self, write_list, entries):
        return write_list(entries["classifier"], entries["embedder"])

    @pytest.fixture
    def record(self, output):
        return output / "records" / "embedder" / "seq8.json"

    def edit(self, record, **changes):
        record.write_text(json.dumps(json.loads(record.read_text()) | changes))

    def test_a_package_that_was_put_in_place_before_the_record_said_so(self, path, output, record):
        self.edit(record, package=None)
        assert steps_of(path, output) == {"classifier/seq8-int8": (), "embedder/seq8": ()}

    def test_not_the_package_that_was_to_be_replaced(self, path, output, record):
        self.edit(record, package=None, replaces=json.loads(record.read_text())["package"])
        assert steps_of(path, output) == {"classifier/seq8-int8": (), "embedder/seq8": ("export",)}

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 1, "published": null, "more": 2}'])
    def test_not_what_has_no_readable_record(self, path, output, record, text):
        record.write_text(text)
        assert steps_of(path, output)["embedder/seq8"] == ("export",)

    def test_not_a_damaged_package(self, path, output):
        weights = next((output / "packages" / "embedder").rglob("weight.bin"))
        weights.write_bytes(b"?" + weights.read_bytes()[1:])
        assert steps_of(path, output)["embedder/seq8"] == ("export",)

    def test_not_a_package_that_is_gone(self, path, output):
        shutil.rmtree(output / "packages" / "embedder" / "seq8")
        assert steps_of(path, output)["embedder/seq8"] == ("export",)

    def test_not_with_another_version_of_a_tool(self, path, output, monkeypatch):
        monkeypatch.setattr("model_zoo.records.version", lambda name: "0.0")
        assert steps_of(path, output)["embedder/seq8"] == ("export",)

    def test_not_with_another_checkpoint(self, output, write_list, entries, tmp_path):
        shutil.copytree(entries["embedder"]["model"], tmp_path / "changed")
        path = write_list(entries["embedder"] | {"model": str(tmp_path / "changed")})
        for name in ("README.md", "config.json"):
            with (tmp_path / "changed" / name).open("a") as file:
                file.write("\n")
        assert steps_of(path, output)["embedder/seq8"] == ("export",)

    def test_what_was_published_elsewhere_or_under_another_licence_is_published_again(
        self, output, write_list, entries, record
    ):
        package = json.loads(record.read_text())["package"]
        self.edit(record, published={"repository": "me/embedder-ane", "subfolder": "", "license": None,
                                     "package": package, "url": "https://hub"})  # fmt: skip
        path = write_list(entries["embedder"])
        for org, change, steps in (
            ("me", {}, ()),
            ("you", {}, ("publish",)),
            ("me", {"license": "mit"}, ("publish",)),
            ("me", {"first_at_root": False}, ("publish",)),
        ):
            path = write_list(entries["embedder"] | {"license": None} | change)
            (plan,) = make_plans(make_jobs(read_catalog(path), org), output, None)
            assert plan.steps == steps

    def test_even_under_another_repository_and_licence(self, output, write_list, entries):
        path = write_list(entries["embedder"] | {"repository": "{org}/other", "license": "apache-2.0"})
        assert steps_of(path, output)["embedder/seq8"] == ()


def test_a_checkpoint_that_is_not_there_fails_alone(write_list, entries, output):
    entry = entries["broken"] | {"model": "org/nowhere"}
    assert run(write_list(entry, entries["classifier"]), output) == 1
    rows = summary(output)
    assert rows["classifier/seq8-int8"]["status"] == "unchanged"
    assert "the network is switched off" in rows["broken/seq8"]["reason"]


def test_an_architecture_that_the_checkpoint_contradicts(write_list, entries, tmp_path):
    path = write_list(entries["embedder"] | {"architecture": "bert"})
    (plan,) = make_plans(make_jobs(read_catalog(path), None), tmp_path, None)
    with pytest.raises(CheckpointError, match="is a distilbert, and the list says bert; mend the list"):
        carry_out(Order.from_json(plan.order.to_json()))


def test_ctrl_c_stops_the_workers_and_cleans_up(write_list, entries, tmp_path):
    output = tmp_path / "out"
    del entries["classifier"]["compress"]
    process = start(write_list(entries["classifier"], entries["embedder"]), output)
    record = output / "records" / "classifier" / "seq8.json"
    wait_for(lambda: list(output.rglob(".seq8.*.partial")) or process.poll() is not None)
    os.kill(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert "classifier/seq8: interrupted" in shown
    assert "embedder/seq8: not run" in shown
    assert is_free(record.with_suffix(".lock"))
    assert not list(output.rglob("*.partial"))
    assert not list((output / "packages").rglob("ane_config.json"))


def test_a_second_run_in_the_same_directory_is_refused(write_list, entries, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "_PATIENCE", 0.1)
    output = tmp_path / "out"
    output.mkdir()
    with (output / "zoo.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(write_list(entries["classifier"]), output) == 1
    assert "error: another run works in" in capsys.readouterr().err


def test_a_dry_run_does_nothing(write_list, entries, tmp_path, capsys):
    output = tmp_path / "out"
    path = write_list(entries["classifier"], defaults={"sequence_lengths": [8, 16]})
    assert zoo.main([str(path), "--org", "me", "--output", str(output), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    model = entries["classifier"]["model"]
    assert lines == [
        f"classifier/seq8-int8 ({model} → me/classifier-ane): export and publish",
        f"classifier/seq16-int8 ({model} → me/classifier-ane/seq16-int8): export and publish",
    ]
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-publish", "--only", "nobody"], "--only 'nobody' is not in the list; it holds classifier"),
        ([], "--org names where to publish; give it, or --no-publish"),
        (["--no-publish", "--dry-run"], "not allowed with"),
        (["--no-publish", "--jobs", "0"], "'0' is not a whole number above 0"),
    ],
)
def test_arguments_that_do_not_fit(write_list, entries, tmp_path, capsys, arguments, says):
    path = write_list(entries["classifier"])
    try:
        code = zoo.main([str(path), "--output", str(tmp_path / "out"), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code in (1, 2)
    assert says in capsys.readouterr().err


def test_ray_runs_the_same_jobs(write_list, entries, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'optimum-ane[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    output = tmp_path / "out"
    assert run(write_list(entries["classifier"]), output, "--ray") == 0
    rows = summary(output)
    assert rows["classifier/seq8-int8"]["status"] == "done"
    package = Path(rows["classifier/seq8-int8"]["package"])
    verify_files(package, Manifest.read(package))


def test_a_ray_cluster_that_is_not_there(write_list, entries, tmp_path, capsys):
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'optimum-ane[ray]'")
    assert run(write_list(entries["classifier"]), tmp_path / "out", "--ray", "127.0.0.1:9") == 1
    assert "error: the Ray cluster '127.0.0.1:9' cannot be reached" in capsys.readouterr().err


def test_without_ray_it_says_how_to_get_it(write_list, entries, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(write_list(entries["classifier"]), tmp_path / "out", "--ray") == 1
    assert "error: --ray needs Ray, which is not installed; pip install 'optimum-ane[ray]'" in capsys.readouterr().err
