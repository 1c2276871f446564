"""Sounds, from a model of any architecture to an answer."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from optimum.exporters.tasks import TasksManager
from tiny_models import psnr
from transformers import (
    ASTConfig,
    AutoConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    pipeline,
)

from optimum_ane import ANEModelForAudioClassification, ANEModelForAudioFeatureExtraction, export
from optimum_ane.errors import InputError, PackageError, UnsupportedModelError
from optimum_ane.exporters.stock_audio import StockAudioANEConfig
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest

LENGTH = 4000
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WAV2VEC2 = SIZES | {
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "id2label": {0: "yes", 1: "no", 2: "maybe"},
}

WHISPER = WhisperConfig(
    **{
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in {"layers": 2, "ffn_dim": 64}.items()
    },
    encoder_attention_heads=4,
    d_model=48,
    max_source_positions=30,
    num_mel_bins=16,
    vocab_size=100,
    pad_token_id=1,
)


def make_model(auto_class, config, seed=0):
    torch.manual_seed(seed)
    model = getattr(transformers, auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def make_sounds(rows, length, seed=3):
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    """A classifier whose feature extractor gives masks, and its package."""
    original = make_model("AutoModelForAudioClassification", Wav2Vec2Config(**WAV2VEC2))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    output = tmp_path_factory.mktemp("audio") / "out"
    return original, export(original, output, processor=extractor, audio_length=LENGTH, quiet=True)


def test_a_classifier_answers_as_the_original_to_sounds_of_several_lengths(wav2vec2):
    original, result = wav2vec2
    model = ANEModelForAudioClassification.from_pretrained(result.path)
    sounds = make_sounds(3, LENGTH)
    mask = (torch.arange(LENGTH)[None] < torch.tensor([[LENGTH], [2500], [900]])).long()
    ours = model(sounds, attention_mask=mask).logits
    assert psnr(original(sounds, attention_mask=mask).logits, ours) > 50
    assert psnr(original(sounds).logits, ours) < 30  # the mask is not idle
    assert f"{LENGTH} samples" in repr(model)


def test_shorter_sounds_are_filled_up_and_masked(wav2vec2):
    original, result = wav2vec2
    model = ANEModelForAudioClassification.from_pretrained(result.path)
    sounds = make_sounds(2, 2600)
    filled = torch.nn.functional.pad(sounds, (0, LENGTH - 2600))
    mask = (torch.arange(LENGTH) < 2600).long().expand(2, -1)
    assert psnr(original(filled, attention_mask=mask).logits, model(sounds).logits) > 50


def test_pipelines_take_it_with_the_feature_extractor_of_the_package(wav2vec2):
    original, result = wav2vec2
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(result.path)
    ours = pipeline(
        "audio-classification",
        model=ANEModelForAudioClassification.from_pretrained(result.path),
        feature_extractor=extractor,
    )
    theirs = pipeline("audio-classification", model=original, feature_extractor=extractor)
    sound = np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)
    answer, expected = ours(sound), theirs(sound)
    assert [each["label"] for each in answer] == [each["label"] for each in expected]
    assert answer[0]["score"] == pytest.approx(expected[0]["score"], abs=0.01)


def test_the_package_says_what_sounds_it_takes(wav2vec2):
    _, result = wav2vec2
    manifest = Manifest.read(result.path)
    assert (manifest.modality, manifest.audio.length, manifest.audio.sampling_rate) == ("audio", LENGTH, 16_000)
    (function,) = manifest.functions
    assert [(entry.name, entry.dtype) for entry in function.inputs] == [
        ("input_values", "float32"),
        ("attention_mask", "int32"),
    ]
    card = (result.path / "README.md").read_text()
    assert "sounds of 4000 samples (0.2 s)" in card
    assert "tokens" not in card


def test_a_manifest_that_contradicts_the_program(wav2vec2, tmp_path):
    shutil.copytree(wav2vec2[1].path, tmp_path / "out")
    manifest = Manifest.read(tmp_path / "out")
    replace(manifest, audio=replace(manifest.audio, length=2_000_000_000)).write(tmp_path / "out")
    with pytest.raises(PackageError, match=r"ane_config.json says of no axis of one sound that it is as long"):
        ANEModelForAudioClassification.from_pretrained(tmp_path / "out")


def test_other_sounds_are_refused(wav2vec2):
    model = ANEModelForAudioClassification.from_pretrained(wav2vec2[1].path)
    with pytest.raises(InputError, match=r"\(1, 4001\), and this package takes rows of 4000"):
        model(make_sounds(1, LENGTH + 1))
    with pytest.raises(InputError, match=r"attention_mask has shape \(1, 7\); expected \(1, 4000\)"):
        model(make_sounds(1, LENGTH), attention_mask=torch.ones(1, 7))
    with pytest.raises(InputError, match=r"this package takes input_values"):
        model(input_features=make_sounds(1, LENGTH))


def test_a_package_without_a_mask_takes_spectrograms_whole(tmp_path):
    original = make_model("AutoModelForAudioClassification", WHISPER)
    result = export(original, tmp_path / "out", quiet=True, task="audio-classification")
    model = ANEModelForAudioClassification.from_pretrained(result.path)
    features = torch.randn(3, 16, 60, generator=torch.Generator().manual_seed(5))
    assert psnr(original(features).logits, model(input_features=features).logits) > 50
    assert result.report.residency["flops_share_on_ane"] > 0.99


def test_features_have_a_row_for_each_frame(tmp_path):
    original = make_model("AutoModel", Wav2Vec2Config(**WAV2VEC2))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    result = export(
        original, tmp_path / "out", quiet=True, audio_length=LENGTH, processor=extractor, task="feature-extraction"
    )
    model = ANEModelForAudioFeatureExtraction.from_pretrained(result.path)
    sounds = make_sounds(2, LENGTH)
    assert psnr(original(sounds).last_hidden_state, model(sounds).last_hidden_state) > 50
    with pytest.raises(InputError, match=r"takes no attention_mask"):
        model(sounds, attention_mask=(torch.arange(LENGTH) < 300).long().expand(2, -1))


def test_the_features_of_a_model_with_a_decoder_are_its_encoders(tmp_path):
    original = make_model("AutoModel", WHISPER)
    result = export(original, tmp_path / "out", quiet=True, task="feature-extraction")
    model = ANEModelForAudioFeatureExtraction.from_pretrained(result.path)
    features = torch.randn(2, 16, 60, generator=torch.Generator().manual_seed(5))
    expected = original.get_encoder()(features).last_hidden_state
    assert psnr(expected, model(input_features=features).last_hidden_state) > 50
    assert list(result.report.layers) == ["embeddings", "layer.0", "layer.1"]


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (Wav2Vec2Config(**WAV2VEC2), {"input_values": (80_000,), "attention_mask": (80_000,)}),
        (WhisperConfig(max_source_positions=30, num_mel_bins=16), {"input_features": (16, 60)}),
        (ASTConfig(max_length=128, num_mel_bins=32), {"input_values": (128, 32)}),
        (
            AutoConfig.for_model("wav2vec2-bert", feature_projection_input_dim=40),
            {"input_features": (500, 40), "attention_mask": (500,)},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_is_taken_where_nobody_says_how_long(config, shapes):
    ane_config = StockAudioANEConfig(config, "audio-classification")
    form = ane_config.complete(ExportForm(task="audio-classification"), None)
    assert ane_config.input_shapes(form) == shapes
    (batch,) = ane_config.examples(form)
    assert {name: tuple(value.shape[1:]) for name, value in batch.items()} == shapes


def test_options_of_images_are_refused():
    ane_config = StockAudioANEConfig(Wav2Vec2Config(**WAV2VEC2), "audio-classification")
    with pytest.raises(UnsupportedModelError, match=r"image_size is for images, and this checkpoint takes sounds"):
        ane_config.complete(ExportForm(task="audio-classification", image_size=64), None)


def test_the_tasks_manager_knows_models_of_sounds():
    tasks = TasksManager.get_supported_tasks_for_model_type("hubert", "ane", library_name="transformers")
    assert {"audio-classification", "feature-extraction"} <= tasks.keys()
    whisper = TasksManager.get_supported_tasks_for_model_type("whisper", "ane", library_name="transformers")
    assert {"audio-classification", "feature-extraction"} <= whisper.keys()
