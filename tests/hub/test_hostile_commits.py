"""A Hub that calls its commit a path: the client would write there."""

import pytest
from hub_packages import files_of
from tiny_models import save_checkpoint

from optimum_ane.checkpoints.hub_options import HubOptions


@pytest.fixture
def rename_commit(hub):
    """Publishes files as a commit of any name; returns the repository."""

    def publish(files, name):
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, files)
        object.__setattr__(hub.server.repository(hub.repo_id).resolve("main"), "oid", name)
        return hub.repo_id

    return publish


@pytest.mark.parametrize("name", ["{outside}", "../../../../outside", "a" * 300, "x\\y", "main"])
def test_nothing_is_written_and_the_error_says_so(hub, rename_commit, package, tmp_path, name):
    save_checkpoint(tmp_path / "checkpoint", "bert", "text-classification")
    outside, cache = tmp_path / "outside", str(tmp_path / "a" / "cache")
    repo_id = rename_commit(
        {**dict(files_of(package)), **dict(files_of(tmp_path / "checkpoint"))}, name.format(outside=outside)
    )
    options = {"sequence_length": 16, "validate": False, "quiet": True}
    answers = {
        "CheckpointError": hub.call(
            "optimum_ane", "export", repo_id, tmp_path / "o", hub=HubOptions(cache_dir=cache), **options
        ),
        "PackageError": hub.call("optimum_ane.hub.download", "fetch_package", repo_id, cache_dir=cache),
    }
    for kind, answer in answers.items():
        assert answer.error == kind, answer.traceback
        assert f"{repo_id}: the Hub names the commit" in answer.message
        assert "check HF_ENDPOINT and the network" in answer.message
        assert len(answer.message.splitlines()) == 1
    assert not outside.exists()
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name or "snapshots" in path.parts]
