"""The sweep over transformers' architectures: what is tried, what is kept of it, and what the page counts."""

import json
from dataclasses import replace

import pytest
from coverage_sweep.catalogue import Case, LeftOut, list_cases
from coverage_sweep.inputs import candidates
from coverage_sweep.page import count, read_page, write_page
from coverage_sweep.record import Attempt, Record, Records
from coverage_sweep.tiny import tiny_config

GOOD = Record(
    "bert",
    "text",
    "accepted",
    capture="trace",
    engine_layout=True,
    psnr=65.04,
    inputs=3,
    operations=89,
    transposes=4,
    share=0.9999,
    regions=2,
    attempts=[Attempt("trace", True, [65.04, 70.0, 71.0])],
)
BAD = Record("funnel", "text", "refused", "no | way", attempts=[Attempt("trace", True, None, "no | way", "encoder")])


@pytest.fixture(scope="module")
def listed():
    cases, left_out = list_cases()
    return {case.key: case for case in cases}, {each.model_type: each.reason for each in left_out}


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("bert", "text"),
        ("llama", "decoders"),
        ("llama:cached", "cached"),
        ("vit", "vision"),
        ("wav2vec2", "audio"),
        ("t5:encoder", "seq2seq"),
        ("t5:decoder", "seq2seq"),
        ("t5:written", "written"),
        ("whisper:encoder", "audio"),
    ],
)
def test_architectures_are_sorted_by_their_inputs(listed, key, group):
    assert listed[0][key].group == group


@pytest.mark.parametrize("model_type", ["clip", "llava", "qwen2_vl", "patchtst"])
def test_what_does_not_stand_alone_is_left_out_with_a_reason(listed, model_type):
    cases, left_out = listed
    assert model_type not in cases
    assert left_out[model_type]


@pytest.mark.parametrize("model_type", ["bert", "llama", "qwen3_moe", "deepseek_v3", "t5", "mamba2"])
def test_rules_make_every_size_small(model_type):
    config = tiny_config(model_type)
    assert config.hidden_size <= 64
    assert config.num_hidden_layers <= 2
    assert config.vocab_size == 100


def test_inputs_have_different_masks_and_one_token_alone():
    import torch

    class Model(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            pass

    config = tiny_config("bert")
    (examples,) = candidates(Case("bert", "model", "text"), Model(), config, 0, longer=False)
    assert sorted(int(example["attention_mask"].sum()) for example in examples) == [1, 8, 13]
    assert len({tuple(example["input_ids"][0].tolist()) for example in examples}) == 3
    (longer,) = candidates(Case("bert", "model", "text"), Model(), config, 0, longer=True)
    assert longer[0]["input_ids"].shape[1] > examples[0]["input_ids"].shape[1]


def test_records_are_resumed_and_the_last_one_counts(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path)
    records.add(BAD)
    records.add(GOOD)
    records.add(replace(BAD, reason="another"))
    path.write_text(path.read_text() + '{"key": "cut o')
    again = Records(path)
    assert again.get("bert") == GOOD
    assert again.get("funnel").reason == "another"
    assert [record.key for record in again.all()] == ["bert", "funnel"]


def test_counts():
    wrong = replace(GOOD, key="roberta", share=0.5, psnr=60.0, checked=30.0)
    turned = replace(wrong, key="d_fine", exact=130.0)
    own = count([GOOD, BAD, wrong, turned, Record("x", "text", "not tiny", "why")])
    assert (own.tried, own.accepted, own.mostly, own.checked, own.below, own.wrong) == (4, 3, 1, 2, 1, 1)
    assert own.median_psnr == pytest.approx(60.0)


def test_decoders_have_a_column_about_their_cache(tmp_path):
    def record(key, **changes):
        return replace(GOOD, key=key, group="cached" if ":" in key else "decoders", **changes)

    records = [
        record("llama"),
        record("llama:cached", psnr=63.15, checked=57.2),
        record("mamba"),
        record("mamba:cached", outcome="no cache", reason="it keeps one recurrent state"),
        record("gpt_neo"),
        record("gpt_neo:cached", outcome="refused", reason="9.1 dB"),
    ]
    write_page(tmp_path, records, [], [])
    page = (tmp_path / "coverage.md").read_text()
    rows = {line.split(" | ")[0]: line for line in page.splitlines()}
    assert rows["| llama"].endswith("| 2 | 63.1, checked 57.2 |")
    assert rows["| mamba"].endswith("| no cache: it keeps one recurrent state |")
    assert rows["| gpt_neo"].endswith("| refused: 9.1 dB |")
    assert "- 1: a recurrent state: mamba" in page
    values = json.loads((tmp_path / "coverage.json").read_text())
    assert (values["groups"]["cached"]["tried"], values["groups"]["cached"]["accepted"]) == (2, 1)
    # What was not tried again stays as the page has it.
    kept = {each.key: each for each in read_page(tmp_path)}
    assert kept["mamba:cached"].outcome == "no cache"
    assert (kept["llama:cached"].psnr, kept["llama:cached"].checked, kept["llama"].share) == (63.1, 57.2, 0.9999)


def test_the_page_and_its_data_hold_every_case(tmp_path):
    both = {"operations": 100, "transposes": 5, "share": 1.0, "psnr": 70.0, "seconds": 3.0}
    write_page(
        tmp_path,
        [GOOD, BAD, Record("x", "text", "not tiny", "why")],
        [LeftOut("clip", "a wrapper")],
        [{"architecture": "bert", "hand": both, "graph": both}],
    )
    page = (tmp_path / "coverage.md").read_text()
    for part in ("| bert | trace | 65.0 |", "| funnel | no \\| way |", "| x | why |", "- 1: a wrapper", "100 → 100"):
        assert part in page
    values = json.loads((tmp_path / "coverage.json").read_text())
    assert values["groups"]["text"]["accepted"] == 1
    assert [entry["key"] for entry in values["architectures"]] == ["bert", "funnel"]
    assert values["left_out"] == {"clip": "a wrapper"}
