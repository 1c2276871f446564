"""A tiny package that writes texts of texts, scored on the way of its export and afterwards."""

import json

import numpy as np
import pytest
from encoder_decoders import make_encoder_decoder
from tiny_models import WORDS, make_tokenizer

from optimum_ane import export
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.workflows.evaluate import evaluate_package


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    original = make_encoder_decoder("bart")
    original.generation_config.update(max_new_tokens=9, num_beams=2)
    original.save_pretrained(folder / "source")
    make_tokenizer().save_pretrained(folder / "source")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS.split(), random.integers(1, 16))) for _ in range(8)]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"source": text, "target": "a film"}) for text in texts))
    dataset = str(folder / "pairs.jsonl")
    return folder, export(
        folder / "source", folder / "out", sequence_length=13, context_length=20, quiet=True, eval_dataset=dataset
    )


def test_a_package_writes_what_its_original_does(made):
    folder, exported = made
    report = evaluate_package(folder / "out", DatasetSpec(str(folder / "pairs.jsonl")))
    assert (report.task, report.primary_metric, report.rows) == ("text2text-generation", "bleu", 8)
    assert (report.drop, report.agreement, report.psnr) == (0, 1, None)
    assert 0 < report.truncated < 8
    assert report.original.metrics == report.package.metrics == exported.accuracy.package.metrics
    card = make_card([read_card_package("", folder / "out")], repo_id="org/model")
    assert "same prediction as the original | 100.00% of the rows" in card
    assert "drop in bleu, positive is worse | +0.00 points" in card
