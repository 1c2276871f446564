"""Cards of packages of speech: what they say, and that their snippets fit the program."""

import re

import coremltools as ct
import pytest
import soundfile
from card_packages import blocks_of, card_package, changed, row_of
from speech_packages import LENGTH, RATE, VOCABULARY, make_ctc_model, make_extractor, make_sounds
from swift_checks import check_brackets
from tiny_models import make_tokenizer

from optimum_ane import export
from optimum_ane.hub.card import make_card


@pytest.fixture(scope="module")
def card(ctc_package):
    return make_card([card_package(ctc_package[1])], repo_id="org/model")


def test_error_rates_increase_where_others_drop(ctc_package):
    scores = {"wer": 0.2009, "cer": 0.1, "raw_wer": 0.227, "raw_cer": 0.11}
    accuracy = {
        "dataset": "recordings", "rows": 21, "primary_metric": "wer", "runtime": "portable", "unit": "sounds",
        "package": {"metrics": scores | {"wer": 0.214}}, "original": {"metrics": scores}, "drop": 1.31,
        "drop_interval": [0.0, 2.6], "confidence": 0.95, "agreement": 0.9, "psnr": None,
    }  # fmt: skip
    package = changed(card_package(ctc_package[1]), report={"accuracy": accuracy})
    card = make_card([package], repo_id="org/model")
    assert "wer on recordings, 21 rows, original → package | 20.09% → 21.40%" in card.replace("\\", "")
    assert row_of(card, "increase in wer") == "+1.31 percentage points, 95% interval +0.00 to +2.60"
    assert row_of(card, "same prediction") == "90.00% of the sounds"
    assert "drop in wer" not in card


@pytest.fixture(scope="module")
def swift(card):
    return blocks_of(card)["swift"]


def test_the_card_says_what_it_takes_and_gives(card):
    assert "automatic-speech-recognition on sounds of 8000 samples (0.5 s)" in card
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert "`vocab.json`" in card or "vocab.json" in card
    assert "takes tensors" not in card


def test_the_swift_fits_the_program(ctc_package, swift):
    description = ct.utils.load_spec(str(ctc_package[1] / "model.mlpackage")).description
    named = re.findall(r'"(\w+)": MLFeatureValue\(', swift)
    assert named == [feature.name for feature in description.input]
    shape = {tuple(feature.type.multiArrayType.shape) for feature in description.input}
    assert shape == {(1, LENGTH)}
    assert f"let length = {LENGTH}, blank = {VOCABULARY['<pad>']}\n" in swift
    assert [feature.name for feature in description.output if f'"{feature.name}"' in swift] == ["logits"]
    assert f"static let rate = {RATE}.0" in swift
    assert "brings each sound to mean 0 and variance 1" in swift
    assert "zip([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])" in swift


def test_nothing_is_left_open(swift):
    check_brackets(swift)


def test_the_python_writes_what_is_said(ctc_package, tmp_path, monkeypatch, capsys):
    package = ctc_package[1]
    monkeypatch.chdir(package.parent)
    soundfile.write(package.parent / "speech.wav", 0.1 * make_sounds(1, 6000)[0], RATE)
    card = make_card([card_package(package, path=package.name)], repo_id=None)
    python = card.split("## Use from Python")[1].split("```python\n")[1].split("```")[0]
    exec(compile(python, "card", "exec"), {})
    assert len(capsys.readouterr().out.strip()) > 3


def test_packages_of_several_sounds_at_once_have_the_plain_snippet(tmp_path):
    original = make_ctc_model("hubert", num_hidden_layers=1)
    extractor = make_extractor(masks=False)
    result = export(
        original, tmp_path / "out", processor=extractor, audio_length=1200, batch_size=2, quiet=True, validate=False,
        tokenizer=make_tokenizer(),
    )  # fmt: skip
    swift = blocks_of(make_card([card_package(result.path)], repo_id=None))["swift"]
    assert "precondition(values.count == 1200" in swift
