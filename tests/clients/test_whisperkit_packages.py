"""Packages for WhisperKit: its host's loop writes what transformers writes, under its rules and through its caches."""

import json
import subprocess

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationMixin, LogitsProcessor, WhisperConfig
from whisper_models import (
    END_OF_ENGLISH,
    RATE,
    WORDS_OF_ENGLISH,
    make_extractor,
    make_sound,
    make_tokenizer,
    make_whisper,
)
from whisperkit import WhisperKit, filter_timestamps

from optimum_ane import ANEModelForSpeechSeq2Seq, export
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.compile_script import whisperkit_folder
from optimum_ane.exporters.whisperkit import WhisperKitANEConfig
from optimum_ane.package.form import ExportForm

TASK = "automatic-speech-recognition"
SOUNDS = [make_sound(1.9), make_sound(1.4, seed=2)]


def make(english):
    tokenizer = make_tokenizer(END_OF_ENGLISH if english else None)
    return make_whisper(tokenizer, heads=3, layers=2, seed=3), tokenizer


@pytest.fixture(scope="module", params=["English", "several languages"])
def package(request, tmp_path_factory):
    original, tokenizer = make(request.param == "English")
    directory = tmp_path_factory.mktemp("kit") / "out"
    # The tokenizer goes without times, which the export adds.
    without = make_tokenizer(END_OF_ENGLISH if request.param == "English" else None, times=False)
    export(
        original, directory, task=TASK, layout="whisperkit", tokenizer=without, processor=make_extractor(), quiet=True
    )
    return original, directory, tokenizer


class HostRules(LogitsProcessor):
    """The rules of the host, for transformers: what it does to logits, and the token of time that it begins with."""

    def __init__(self, kit):
        self.kit, self.prompt = kit, kit.prompt()

    def __call__(self, input_ids, scores):
        tokens, special, begin = input_ids[0].tolist(), self.kit.special, len(self.prompt)
        is_first = len(tokens) == begin - 1
        known = [*tokens, special.time_begin] if is_first else tokens
        logits = scores[0].numpy().astype(np.float16)
        filtered = filter_timestamps(logits, known, special, begin, self.kit.is_multilingual)
        if is_first and filtered.argmax() < special.time_begin:
            filtered[:], filtered[special.time_begin] = -np.inf, 0
        return torch.from_numpy(filtered.astype(np.float32))[None]


def host_text(original, kit, extractor, sound):
    """What transformers writes of one window under the rules of the host."""
    features = extractor(sound, sampling_rate=RATE, return_tensors="pt").input_features
    tokens = GenerationMixin.generate(
        original,
        features,
        decoder_input_ids=torch.tensor([kit.prompt()[:-1]]),
        logits_processor=[HostRules(kit)],
        max_length=224,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )[0].tolist()
    end = kit.special.end
    return tokens[: tokens.index(end)] if end in tokens else tokens[:223]


def test_the_host_writes_what_transformers_writes(package):
    original, directory, _ = package
    kit, texts = WhisperKit(directory), set()
    for sound in SOUNDS:  # through the same caches, of which the host clears nothing
        (window,) = kit.transcribe(sound)
        assert window[:-1] == host_text(original, kit, make_extractor(), sound)
        texts.add(tuple(window))
    assert len(texts) == len(SOUNDS)


def test_the_class_runs_it_too(package):
    original, directory, _ = package
    model = ANEModelForSpeechSeq2Seq.from_pretrained(directory, runtime="portable")
    heard = make_extractor()(SOUNDS[0], sampling_rate=RATE, return_tensors="pt")
    options = {"return_timestamps": True, "max_new_tokens": 20}
    assert model.generate(**heard, **options).tolist() == original.generate(**heard, **options).tolist()
    with pytest.raises(UnsupportedModelError, match="no weights of alignment heads"):
        model.generate(**heard, return_token_timestamps=True)


def test_names_shapes_and_types_are_those_that_the_host_reads(package):
    original, directory, _ = package
    kit = WhisperKit(directory)
    specs = {
        name: {key: (spec.shape, spec.dtype) for key, spec in values.items()}
        for name, values in (
            ("mel", kit.mel.inputs),
            ("mel gives", kit.mel.outputs),
            ("encoder", kit.encoder.inputs),
            ("encoder gives", kit.encoder.outputs),
            ("decoder", kit.decoder.inputs),
            ("decoder gives", kit.decoder.outputs),
        )
    }
    half, words = "float16", original.config.vocab_size
    features, embeds = ((1, 80, 1, 200), half), ((1, 48, 1, 100), half)
    assert specs == {
        "mel": {"audio": ((32000,), half)},
        "mel gives": {"melspectrogram_features": features},
        "encoder": {"melspectrogram_features": features},
        "encoder gives": {"encoder_output_embeds": embeds},
        "decoder": {
            "input_ids": ((1,), "int32"),
            "cache_length": ((1,), "int32"),
            "key_cache": ((1, 96, 1, 448), half),
            "value_cache": ((1, 96, 1, 448), half),
            "kv_cache_update_mask": ((1, 448), half),
            "encoder_output_embeds": embeds,
            "decoder_key_padding_mask": ((1, 448), half),
        },
        "decoder gives": {
            "logits": ((1, 1, words), half),
            "key_cache_updates": ((1, 96, 1, 1), half),
            "value_cache_updates": ((1, 96, 1, 1), half),
            "alignment_heads_weights": ((1, 100), half),
        },
    }


def test_the_tokenizer_has_times(package):
    _, directory, tokenizer = package
    saved = AutoTokenizer.from_pretrained(directory)
    for token in ("<|0.00|>", "<|1.98|>", "<|30.00|>", "<|notimestamps|>"):
        assert saved.convert_tokens_to_ids(token) == tokenizer.convert_tokens_to_ids(token)
    contents = {entry["content"] for entry in json.loads((directory / "tokenizer.json").read_text())["added_tokens"]}
    assert "<|0.00|>" in contents


def test_the_script_makes_the_folder_that_the_client_opens(package, tmp_path):
    _, directory, _ = package
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "xcrun").write_text('#!/bin/sh\nmkdir "$4/$(basename "$3" .mlpackage).mlmodelc"\n')
    (tools / "xcrun").chmod(0o755)
    subprocess.run([directory / "compile.sh"], check=True, env={"PATH": f"{tools}:/usr/bin:/bin"})
    (folder,) = [path for path in directory.iterdir() if path.is_dir() and path.suffix != ".mlpackage"]
    assert {path.name for path in folder.iterdir()} == {
        *("MelSpectrogram.mlmodelc", "AudioEncoder.mlmodelc", "TextDecoder.mlmodelc"),
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    }


def test_folders_are_named_as_the_client_names_them():
    assert whisperkit_folder("openai/whisper-tiny.en") == "openai_whisper-tiny.en"
    assert whisperkit_folder("a b/c'; rm") == "a_b_c_rm"


def configured(tokenizer, **settings):
    ids = tokenizer.get_vocab()
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids.get("<|startoftranscript|>", 0),
        **settings,
    )
    return WhisperKitANEConfig(config, TASK)


def test_vocabularies_that_the_host_would_misread_are_refused():
    several, english = make_tokenizer(), make_tokenizer(END_OF_ENGLISH)
    assert len(english) == WORDS_OF_ENGLISH
    configured(several).adapt_tokenizer(several)
    configured(english).adapt_tokenizer(english)
    larger = configured(english)
    larger._config.vocab_size += 1
    other = configured(several)
    other._config.eos_token_id += 1
    short = configured(several)
    short._config.vocab_size -= 1
    moved = make_tokenizer(times=False)
    moved.add_tokens(["something else"])
    nameless = make_tokenizer()
    nameless.get_vocab = lambda: {key: value for key, value in several.get_vocab().items() if key != "<|translate|>"}
    for config, tokenizer, message in (
        (larger, english, "would take this one, whose tokenizer is that of English"),
        (other, several, "gives 256 for <.endoftext.>, and eos_token_id of config.json is 257"),
        (short, several, "ends before the 1501 tokens of times"),
        (configured(moved), moved, "has something else there"),
        (configured(several), nameless, "has no <.translate.>"),
        (configured(several), None, "no tokenizer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            config.adapt_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache": "state"}, "WhisperKit keeps the cache itself"),
        ({"precision": "float32"}, "leave .*precision out"),
        ({"context_length": 200}, "below the 224 columns"),
        ({"audio_length": 100}, "spectrograms of 3000 frames"),
    ],
)
def test_what_the_host_cannot_take_is_refused(options, message):
    config = configured(make_tokenizer())
    form = config.complete(ExportForm(task=TASK, layout="whisperkit", **options), None)
    with pytest.raises((UnsupportedModelError, ShapeError), match=message):
        config.check(form)


def test_the_layout_is_of_speech():
    with pytest.raises(UnsupportedModelError, match="layout is for the task automatic-speech-recognition"):
        ExportForm(task="text-generation", layout="whisperkit")
    with pytest.raises(UnsupportedModelError, match="layout is for the task text-generation"):
        ExportForm(task=TASK, layout="anemll")
    assert ExportForm(task=TASK, layout="whisperkit", kv_cache="io").target == "iOS16"
