"""Cards of packages of speech: what they say, and that their snippets fit the program."""

import re

import coremltools as ct
import pytest
import soundfile
from card_packages import blocks_of, card_package, changed, row_of
from encoder_decoders import make_captioner, make_encoder_decoder
from speech_packages import LENGTH, RATE, VOCABULARY, make_ctc_model, make_extractor, make_sounds
from tiny_models import make_tokenizer
from transformers import ViTImageProcessor

from optimum_ane import export
from optimum_ane.hub.card import make_card
from optimum_ane.package.manifest import Manifest


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
    bare = re.sub(r"//.*", "", re.sub(r'"(\\.|[^"\\\n])*"', "", swift))
    stack = []
    for character in bare:
        if character in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}":
            assert stack.pop() == character
    assert stack == []
    assert "None" not in bare


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


def check_swift(directory, swift):
    """The Swift gives each function that it calls what the program takes, and closes what it opens."""
    manifest = Manifest.read(directory)
    programs = {program.name: program for program in manifest.programs}
    functions = {function.name: function for function in programs["decoder"].functions}
    step = swift[swift.index("infer.prediction(") : swift.index("if position + 1 < tokens.count")]
    named = re.findall(r'"(\w+)": (?:MLFeatureValue\(|shown)', step)
    assert named == [tensor.name for tensor in functions["infer"].inputs]
    masks = {tensor.name: tensor for tensor in functions["infer"].inputs if tensor.name.endswith("mask")}
    context, columns = masks["causal_mask"].shape[-1], masks["encoder_mask"].shape[-1]
    assert f"let context = {context}, columns = {columns}\n" in swift
    assert {tensor.dtype for tensor in masks.values()} == {"float16"}
    assert swift.count("MLShapedArray<Float16>") == 2
    assert '["encoder_hidden_states": encoded]' in swift
    assert f'load("decoder.mlpackage", "begin", {".cpuAndNeuralEngine"})' in swift
    encoded = swift[swift.index("encoder.prediction(") :]
    assert re.findall(r'"(input_ids|attention_mask|pixel_values|input_features)":', encoded)[
        : len(programs["encoder"].functions[0].inputs)
    ] == [tensor.name for tensor in programs["encoder"].functions[0].inputs]
    test_nothing_is_left_open(swift)


def test_the_swift_of_translations(tmp_path):
    original = make_encoder_decoder("bart")
    tokenizer = make_tokenizer()
    result = export(
        original, tmp_path / "out", tokenizer=tokenizer, sequence_length=13, context_length=20, quiet=True,
        validate=False,
    )  # fmt: skip
    swift = blocks_of(make_card([card_package(result.path)], repo_id=None))["swift"]
    check_swift(result.path, swift)
    config = original.config
    assert "if tokens.count > 13 { tokens = Array(tokens.prefix(13 - 1)) + tokens.suffix(1) }" in swift
    assert f"let ends: Set<Int> = [2], padding = {config.pad_token_id}\n" in swift
    start = [config.decoder_start_token_id]
    forced = getattr(config, "forced_bos_token_id", None) or original.generation_config.forced_bos_token_id
    assert re.search(r"seen: tokens.count, after: \[([\d, ]+)\]", swift)[1].split(", ") == list(
        map(str, start + ([] if forced is None else [forced]))
    )


def test_the_swift_of_captions(tmp_path):
    processor = ViTImageProcessor(size={"height": 24, "width": 24})
    result = export(
        make_captioner(), tmp_path / "out", tokenizer=make_tokenizer(), processor=processor, context_length=20,
        quiet=True, validate=False,
    )  # fmt: skip
    swift = blocks_of(make_card([card_package(result.path)], repo_id=None))["swift"]
    check_swift(result.path, swift)
    assert "cgImage: image, pixelsWide: 24, pixelsHigh: 24" in swift
    assert "seen: 10, after: [0]" in swift
