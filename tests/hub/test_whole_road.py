"""Export, publish, load by the Hub id, predict; then the same offline. All of it through the real client."""

import json
import shutil

import pytest
from hub_packages import published_files_of
from tiny_models import save_checkpoint

TEXTS = ["the film was very good", "a dull plot", "gripping"]

PREDICT = """
import json, sys
from transformers import AutoTokenizer, pipeline
from optimum_ane import ANEModelForSequenceClassification
model = ANEModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps(pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)(sys.argv[2:])))
"""


def test_a_checkpoint_reaches_a_reader_and_answers_as_the_original(hub, tmp_path, record_property):
    from transformers import AutoTokenizer, pipeline

    original = save_checkpoint(tmp_path / "checkpoint", "distilbert", "text-classification")
    export = hub.cli("export", "ane", "--model", tmp_path / "checkpoint", "--sequence-length", "16", tmp_path / "out")
    assert export.returncode == 0, export.stderr
    publish = hub.cli("ane", "publish", tmp_path / "out", hub.repo_id, "--license", "mit", "--private")
    assert publish.returncode == 0, publish.stderr
    record_property("requests of publish", len(hub.server.requests))
    sent = hub.server.files(hub.repo_id)
    assert not [name for name, data in sent.items() if str(tmp_path).encode() in data]
    assert json.loads(sent["ane_config.json"])["source_model"] == "checkpoint"
    for path in (tmp_path / "checkpoint", tmp_path / "out"):
        path.rename(path.with_suffix(".gone"))
    hub.server.forget()
    online = hub.python(PREDICT, hub.repo_id, *TEXTS)
    assert online.returncode == 0, online.stderr
    assert hub.server.count("GET", "/resolve/") > 0
    hub.server.forget()
    offline = hub.python(PREDICT, hub.repo_id, *TEXTS, env={"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stderr
    assert hub.server.requests == []
    assert offline.stdout == online.stdout

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint.gone")
    expected = pipeline("text-classification", model=original, tokenizer=tokenizer, top_k=None)(TEXTS)
    for mine, theirs in zip(json.loads(online.stdout), expected, strict=True):
        assert {e["label"]: e["score"] for e in mine} == pytest.approx(
            {e["label"]: e["score"] for e in theirs}, abs=2e-3
        )


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
