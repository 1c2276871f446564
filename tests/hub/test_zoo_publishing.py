"""The zoo publishes: what stands on the Hub after a run, a fault and a rerun."""

import json

import pytest
import yaml
from hub_packages import published_files_of
from tiny_models import save_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A list of one model with two packages."""
    folder = tmp_path_factory.mktemp("zoo")
    save_checkpoint(folder / "checkpoint", "bert", "text-classification")
    entry = {
        "name": "tiny",
        "model": "./checkpoint",
        "architecture": "bert",
        "task": "text-classification",
        "sequence_lengths": [8, 16],
        "psnr_threshold": 20,
        "license": "mit",
        "repository": "{org}/zoo-{name}",
    }
    (folder / "list.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    return folder / "list.yaml"


def rows_of(output):
    return {row["job"]: row for row in json.loads((output / "summary.json").read_text())}


def times(output):
    return {path: path.stat().st_mtime_ns for path in (output / "packages").rglob("*") if path.is_file()}


def test_a_run_with_a_fault_a_rerun_and_a_rerun_of_that(hub, models, tmp_path):
    output, repository = tmp_path / "out", "org/zoo-tiny"
    arguments = [str(models), "--org", "org", "--output", str(output), "--jobs", "2", "--private"]

    hub.server.fail("/commit/", status=403)
    assert hub.call("hub_zoo", "main", [*arguments, "--only", "tiny/seq8"]).get() == 1
    (row,) = rows_of(output).values()
    assert row["status"] == "failed"
    assert "committing: the token may not do this in org/zoo-tiny" in row["reason"]
    assert set(hub.server.files(repository)) == {".gitattributes"}
    before = times(output)
    assert "ane_config.json" in {path.name for path in before}

    hub.server.forget()
    answer = hub.call("hub_zoo", "main", arguments)
    assert answer.get() == 0, answer.output
    assert {path: time for path, time in times(output).items() if path in before} == before
    files = hub.server.files(repository)
    for folder, variant in (("", "seq8"), ("seq16/", "seq16")):
        package = output / "packages" / "tiny" / variant
        sent = published_files_of(package)
        manifest = json.loads(sent.pop("ane_config.json"))
        manifest["source"]["model"] = "checkpoint"
        assert json.loads(files[f"{folder}ane_config.json"]) == manifest
        assert {name: files[folder + name] for name in sent} == sent
    assert not [name for name, data in files.items() if str(models.parent).encode() in data]
    assert b"seq16" in files["README.md"]
    assert hub.server.repository(repository).is_private
    rows = rows_of(output)
    assert rows["tiny/seq8"]["url"] == f"{hub.url}/{repository}"
    assert rows["tiny/seq16"]["url"] == f"{hub.url}/{repository}/tree/main/seq16"
    assert len(list(hub.server.repository(repository).history())) == 3

    hub.server.forget()
    before = times(output)
    answer = hub.call("hub_zoo", "main", arguments)
    assert (answer.get(), {row["status"] for row in rows_of(output).values()}) == (0, {"unchanged"})
    assert not hub.server.requests
    assert times(output) == before

    written = (*(output / "logs").rglob("*.log"), *(output / "records").rglob("*.json"), output / "summary.json")
    assert hub.server.token not in "".join(path.read_text() for path in written) + answer.output
