"""Export, publish, load by the Hub id, predict; then the same offline. All of it through the real client."""

import json
import shutil
from pathlib import Path

import pytest
from hub_packages import published_files_of
from tiny_models import save_checkpoint

TEXTS = ["the film was very good", "a dull plot", "gripping"]

OFFLINE = "import hub_loading, json, sys; print(json.dumps(hub_loading.scores(sys.argv[1], sys.argv[2:])))"


def test_a_checkpoint_reaches_a_reader_and_answers_as_the_original(hub, tmp_path, record_property):
    from transformers import AutoTokenizer, pipeline

    original = save_checkpoint(tmp_path / "checkpoint", "distilbert", "text-classification")
    export = hub.cli("export", "ane", "--model", tmp_path / "checkpoint", "--sequence-length", "16", tmp_path / "out")
    assert export.returncode == 0, export.stderr
    arguments = (tmp_path / "out", hub.repo_id, "--license", "mit", "--private")
    assert hub.call("hub_publishing", "command", *arguments).get() == 0
    record_property("requests of publish", len(hub.server.requests))
    sent = hub.server.files(hub.repo_id)
    assert not [name for name, data in sent.items() if str(tmp_path).encode() in data]
    assert json.loads(sent["ane_config.json"])["source"]["model"] == "checkpoint"
    for path in (tmp_path / "checkpoint", tmp_path / "out"):
        path.rename(path.with_suffix(".gone"))
    hub.server.forget()
    online = hub.call("hub_loading", "scores", hub.repo_id, TEXTS).get()
    assert hub.server.count("GET", "/resolve/") > 0
    hub.server.forget()
    env = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parent)}
    offline = hub.python(OFFLINE, hub.repo_id, *TEXTS, env=env)
    assert offline.returncode == 0, offline.stderr
    assert hub.server.requests == []
    assert json.loads(offline.stdout) == online

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint.gone")
    expected = pipeline("text-classification", model=original, tokenizer=tokenizer, top_k=None)(TEXTS)
    for mine, theirs in zip(online, expected, strict=True):
        assert mine == pytest.approx({e["label"]: e["score"] for e in theirs}, abs=2e-3)


def test_a_model_pushes_what_it_was_loaded_from(hub, small_package, tmp_path):
    package = shutil.copytree(small_package, tmp_path / "package")
    assert hub.call("hub_publishing", "push", package, hub.repo_id, tmp_path / "saved").get() == [
        f"{hub.url}/{hub.repo_id}",
        f"{hub.url}/{hub.repo_id}-copy/tree/main/inside",
    ]
    assert hub.server.repository(hub.repo_id).is_private
    assert hub.server.repository(hub.repo_id).head.title == "by hand"
    wanted = published_files_of(package)
    page = wanted.pop("export_report.html")  # a document for people, which loading does not fetch
    first, copy, saved = (hub.server.files(hub.repo_id + end) for end in ("", "-copy", "-saved"))
    assert first["export_report.html"] == page
    for name, data in wanted.items():
        assert first[name] == copy[f"inside/{name}"] == saved[name] == data
        assert (tmp_path / "saved" / name).read_bytes() == data
