"""A Hub that calls a commit or a file's content a path: the client would write there."""

from itertools import count
from types import SimpleNamespace

import pytest
from hub_packages import files_of
from hub_store import Blob
from huggingface_hub.hf_api import RepoFile
from tiny_models import save_checkpoint

from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import PublishError
from optimum_ane.hub.remote import list_files


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


@pytest.mark.parametrize("etag", ["../../outside", "{outside}", "a/../../outside", "..", ""])
def test_a_file_whose_content_is_called_a_path(hub, package, tmp_path, monkeypatch, etag):
    outside, cache = tmp_path / "outside", tmp_path / "a" / "cache"
    hub.server.create(hub.repo_id)
    hub.server.put(hub.repo_id, files_of(package))
    name = etag.format(outside=outside)
    monkeypatch.setattr(Blob, "etag", property(lambda _: name))
    answer = hub.call("optimum_ane.hub.download", "fetch_package", hub.repo_id, cache_dir=str(cache))
    assert answer.error == "PackageError", answer.traceback
    assert f"{hub.repo_id}: the Hub calls the content of a file" in answer.message
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name or "blobs" in path.parts]


def test_a_configuration_without_end_is_not_downloaded(hub, package, tmp_path):
    hub.server.create(hub.repo_id)
    hub.server.put(hub.repo_id, files_of(package) | {"ane_config.json": b" " * (2**20 + 1)})
    answer = hub.call("optimum_ane.hub.download", "fetch_package", hub.repo_id, cache_dir=str(tmp_path / "cache"))
    assert answer.error == "PackageError", answer.traceback
    assert "ane_config.json has 1,048,577 bytes, and such a file has 1,048,576 at most" in answer.message
    assert hub.server.count("GET", "/resolve/") == 0


def test_a_list_of_files_without_end():
    endless = (RepoFile(path=f"{index}.txt", size=1, oid="0" * 40) for index in count())
    api = SimpleNamespace(list_repo_tree=lambda *_, **__: endless)
    with pytest.raises(PublishError, match="org/model lists more than 20,000 files and folders"):
        list_files(api, "org/model", "main")
