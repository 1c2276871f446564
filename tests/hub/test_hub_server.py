"""The loopback Hub against the real client: what the other tests of this folder stand on."""

import hashlib

import pytest
from hub_validation import validate_card

CLIENT = """
import pathlib, sys
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete, hf_hub_download, snapshot_download
from huggingface_hub import ModelCard
repo, folder, cache = sys.argv[1:]
api = HfApi()
assert api.whoami()["name"] == "tester"
api.create_repo(repo, private=True)
first = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="all")
again = api.upload_folder(repo_id=repo, folder_path=folder)
assert first.oid == again.oid, (first, again)
copy = pathlib.Path(snapshot_download(repo, cache_dir=cache))
for path in pathlib.Path(folder).rglob("*"):
    if path.is_file():
        assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
paths = [entry.path for entry in api.list_repo_tree(repo, recursive=True)]
assert "deep/er/big.bin" in paths and "deep/er" in paths, paths
assert {e.path for e in api.list_repo_tree(repo)} == {".gitattributes", "deep", "README.md", "empty.txt"}
(info,) = api.get_paths_info(repo, ["deep/er/big.bin", "nowhere"])
assert info.lfs.size == info.size == 12 << 20
api.create_branch(repo, branch="a/b")
api.create_commit(repo, [CommitOperationDelete("deep/", is_folder=True)], commit_message="less", revision="a/b")
pull = api.create_commit(repo, [CommitOperationAdd("new", b"new")], commit_message="pull", create_pr=True)
assert pull.pr_revision == "refs/pr/1"
assert api.repo_info(repo, revision="refs/pr/1").sha == pull.oid
assert "new" in api.list_repo_files(repo, revision="refs/pr/1")
assert [branch.name for branch in api.list_repo_refs(repo).branches] == ["main", "a/b"]
ModelCard((pathlib.Path(folder) / "README.md").read_text()).validate()
print("fine")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/big.bin").write_bytes(hashlib.shake_256(b"big").digest(12 << 20))
    (folder / "deep/small.bin").write_bytes(b"small")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (folder / "empty.txt").write_bytes(b"")
    return folder


def test_the_real_client_creates_uploads_lists_branches_and_reads_back(hub, folder, tmp_path):
    hub.server.multipart_above = 5 << 20
    hub.server.page_size = 2
    try:
        result = hub.python(CLIENT, hub.repo_id, folder, tmp_path)
    finally:
        hub.server.page_size = 1000
    assert result.stdout == "fine\n", result.stderr
    assert hub.server.files(hub.repo_id)["deep/er/big.bin"] == (folder / "deep/er/big.bin").read_bytes()
    assert "deep/small.bin" not in hub.server.files(hub.repo_id, "a/b")
    assert "new" not in hub.server.files(hub.repo_id, "main")
    assert hub.server.repository(hub.repo_id).is_private
    assert hub.server.count("PUT", "/lfs-part/") == 3


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("license: apache", '"license" must be one of'),
        ("base_model: ../models/x", '"base_model" with value "../models/x" is not valid'),
        ("base_model: /tmp/x", '"base_model" with value "/tmp/x" is not valid'),
        ("model-index: not correct", '"model-index" must be an array'),
        ("model-index: [{name: m, results: [{task: {type: t}, metrics: [{type: a, value: 1}]}]}]", "dataset"),
        ("tags: coreml", '"tags" must be an array'),
        ("license: [", "Invalid YAML"),
        ("language: English", '"language" with value "English"'),
    ],
)
def test_metadata_that_the_hub_refuses_is_refused(metadata, complaint):
    errors, _ = validate_card(f"---\n{metadata}\n---\n# Card\n")
    assert any(complaint in error for error in errors), errors


def test_complete_metadata_is_accepted():
    index = "[{name: m, results: [{task: {type: t}, dataset: {type: d, name: D}, metrics: [{type: a, value: 0.5}]}]}]"
    card = f"---\nlicense: mit\nbase_model: org/x\nlanguage: [en]\ndatasets: [sst2]\nmodel-index: {index}\n---\n"
    assert validate_card(card) == ([], [])
