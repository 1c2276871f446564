"""A tiny package that writes texts of texts, scored on the way of its export and afterwards."""

import json
import re
import shutil

import numpy as np
import pytest
from encoder_decoders import make_encoder_decoder
from swift_checks import check_writer, swift_of
from tiny_models import WORDS, make_tokenizer

from optimum_ane import export
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.evaluation.accuracy import AccuracyLimits
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.workflows.compress import compress_package
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


def test_the_swift_of_the_card_fits_the_programs(made):
    swift = swift_of(made[0] / "out")
    check_writer(made[0] / "out", swift)
    config = json.loads((made[0] / "out/config.json").read_text())
    assert "if tokens.count > 13 { tokens = Array(tokens.prefix(13 - 1)) + tokens.suffix(1) }" in swift
    assert f"let ends: Set<Int> = [2], padding = {config['pad_token_id']}\n" in swift
    begins = [config["decoder_start_token_id"], config.get("forced_bos_token_id")]
    stated = re.search(r"seen: tokens.count, after: \[([\d, ]+)\]", swift)[1]
    assert stated == ", ".join(str(token) for token in begins if token is not None)


def test_what_texts_begin_with_is_that_of_generate(made, tmp_path):
    """transformers writes the token that is forced first into generation_config.json alone."""
    package = shutil.copytree(made[0] / "out", tmp_path / "out")
    path = package / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_start_token_id": 3, "forced_bos_token_id": 7}))
    assert "seen: tokens.count, after: [3, 7])" in swift_of(package)


def test_a_package_that_is_compressed_writes_as_its_generation_config_says(made):
    folder, _ = made
    spec = DatasetSpec(str(folder / "pairs.jsonl"))
    limits = AccuracyLimits(max_accuracy_drop=100)
    compressed = compress_package(
        folder / "out", get_recipe("int8"), folder / "int8", dataset=spec, limits=limits, psnr_threshold=20, quiet=True
    )
    report = evaluate_package(folder / "int8", spec)
    assert report.package.metrics == compressed.accuracy.package.metrics
    assert report.agreement == compressed.accuracy.agreement
