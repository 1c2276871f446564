"""`ANEModelForSpeechSeq2Seq` beside transformers' Whisper: the same calls, the same texts."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline
from whisper_models import RATE, make_extractor, make_sound

from optimum_ane import ANEModelForCTC, ANEModelForSpeechSeq2Seq
from optimum_ane.errors import InputError, PackageError
from optimum_ane.exporters import encoder_decoder
from optimum_ane.exporters.whisper import SpeechToTextANEConfig
from optimum_ane.package.manifest import Manifest
from optimum_ane.validation.psnr import psnr
from optimum_ane.workflows.stages import torch_session


def in_pytorch(whisper_package, **form):
    """The original, and the model class over the same modules in PyTorch: what differs is not rounding."""
    original, package, _ = whisper_package
    manifest = Manifest.read(package)
    manifest = replace(manifest, form=replace(manifest.form, **form))
    ane_config = SpeechToTextANEConfig(original.config, manifest.form.task)
    ane_config.complete(manifest.form, make_extractor())
    programs = ane_config.programs(manifest.form)
    draft = SimpleNamespace(modules={program.name: ane_config.wrap(original, program) for program in programs})
    sessions = {program.name: torch_session(draft, program) for program in programs}
    model = ANEModelForSpeechSeq2Seq(sessions, original.config, manifest)
    model.generation_config = original.generation_config
    return original, model


@pytest.fixture(scope="module")
def models(whisper_package):
    return in_pytorch(whisper_package)


@pytest.fixture(scope="module")
def package(whisper_package):
    return ANEModelForSpeechSeq2Seq.from_pretrained(whisper_package[1], runtime="portable")


@pytest.fixture(scope="module")
def extractor(whisper_package):
    return AutoFeatureExtractor.from_pretrained(whisper_package[1])


@pytest.fixture(scope="module")
def tokenizer(whisper_package):
    return AutoTokenizer.from_pretrained(whisper_package[1])


def hear(extractor, *sounds):
    longest = max(map(len, sounds))
    padding = {"truncation": False, "padding": "longest"} if longest > extractor.n_samples else {}
    return extractor(list(sounds), sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **padding)


def both(models, heard, **options):
    answers = []
    for model in models:
        torch.manual_seed(0)
        answers.append(model.generate(**heard, **copy.deepcopy(options)))
    return answers


SHORT = {
    "greedy": {"language": "en", "max_new_tokens": 30},
    "a language that is heard": {"max_new_tokens": 20},
    "translated": {"language": "de", "task": "translate", "max_new_tokens": 20},
    "beams": {"language": "en", "num_beams": 3, "max_new_tokens": 20},
    "several beams of each": {"language": "en", "num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12},
    "times": {"language": "en", "return_timestamps": True, "max_new_tokens": 30},
    "after a prompt": {"language": "en", "prompt_ids": torch.tensor([263, 70, 71, 72]), "max_new_tokens": 20},
    "sampled": {"language": "en", "do_sample": True, "max_new_tokens": 10},
}


@pytest.mark.parametrize("what", SHORT)
def test_short_sounds(models, extractor, what):
    heard = hear(extractor, make_sound(1.9), make_sound(1.2, seed=1))
    expected, actual = both(models, heard, **SHORT[what])
    assert actual.tolist() == expected.tolist()
    assert len({tuple(row) for row in actual.tolist()}) > 1  # both are heard


@pytest.mark.parametrize("options", [{}, {"condition_on_prev_tokens": True}], ids=["windows", "with what was before"])
def test_long_sounds_are_heard_in_windows_and_the_batch_shrinks(models, extractor, options):
    heard = hear(extractor, make_sound(5.3), make_sound(2.9, seed=1))
    options = {"language": "en", "return_timestamps": True, "return_segments": True, "max_new_tokens": 24, **options}
    expected, actual = both(models, heard, **options)
    assert actual["sequences"].tolist() == expected["sequences"].tolist()
    starts = [
        [[float(segment["start"]) for segment in row] for row in each["segments"]] for each in (expected, actual)
    ]
    assert starts[0] == starts[1]
    assert len(starts[0][0]) > len(starts[0][1]) > 0


def test_times_of_words(models, extractor):
    heard = hear(extractor, make_sound(1.9), make_sound(1.2, seed=1))
    options = {"language": "en", "return_token_timestamps": True, "max_new_tokens": 20}
    expected, actual = both(models, heard, **options)
    assert actual["sequences"].tolist() == expected["sequences"].tolist()
    assert torch.equal(actual["token_timestamps"], expected["token_timestamps"])
    assert len(set(actual["token_timestamps"][0].tolist())) > 3
    expected, actual = both(models, heard, **options, num_beams=2)
    assert torch.equal(actual["token_timestamps"], expected["token_timestamps"])


@pytest.mark.parametrize("most", [encoder_decoder.MOST_PASSED_BYTES, 1000], ids=["kept", "projected at each step"])
def test_caches_that_are_passed_in(whisper_package, extractor, monkeypatch, most):
    monkeypatch.setattr(encoder_decoder, "MOST_PASSED_BYTES", most)
    models = in_pytorch(whisper_package, kv_cache="io")
    assert ("cross_cache" in models[1].sessions["decoder"].inputs) == (most > 1000)
    heard = hear(extractor, make_sound(1.9), make_sound(1.2, seed=1))
    options = {"language": "en", "return_token_timestamps": True, "max_new_tokens": 12, "num_beams": 2}
    expected, actual = both(models, heard, **options)
    assert actual["sequences"].tolist() == expected["sequences"].tolist()
    assert torch.equal(actual["token_timestamps"], expected["token_timestamps"])


def test_times_of_words_without_a_list_of_heads(whisper_package, extractor, monkeypatch):
    """All heads of the upper half of the layers take their place, as OpenAI has it."""
    original = whisper_package[0]
    monkeypatch.setattr(original, "generation_config", copy.deepcopy(original.generation_config))
    del original.generation_config.alignment_heads
    _, model = in_pytorch(whisper_package)
    model.generation_config = copy.deepcopy(original.generation_config)
    original.generation_config.alignment_heads = [[1, 0], [1, 1], [1, 2]]
    options = {"language": "en", "return_token_timestamps": True, "max_new_tokens": 12}
    expected, actual = both((original, model), hear(extractor, make_sound(1.9)), **options)
    assert torch.equal(actual["token_timestamps"], expected["token_timestamps"])


def test_weights_of_the_alignment_heads(models, package, extractor):
    original, model = models[0], package
    original.set_attn_implementation("eager")
    heard = hear(extractor, make_sound(1.9))
    tokens = torch.tensor([[257, 258, 261, 265, 70, 71, 72]])
    expected = original(heard.input_features, decoder_input_ids=tokens, output_attentions=True)
    actual = model(heard.input_features, decoder_input_ids=tokens, output_attentions=True)
    for layer, head in original.generation_config.alignment_heads:
        theirs, ours = (each.cross_attentions[layer][:, head].numpy() for each in (expected, actual))
        assert psnr(theirs, ours) >= 50
    assert psnr(expected.logits.numpy(), actual.logits.numpy()) >= 50


def test_a_window_is_encoded_once(models, extractor, monkeypatch):
    _, model = models
    calls = []
    encode = model._programs.encode
    monkeypatch.setattr(model._programs, "encode", lambda inputs: calls.append(1) or encode(inputs))
    heard = hear(extractor, make_sound(1.9), make_sound(1.2, seed=1))
    # The language is looked for first, and no text is probable enough, so that all are written again.
    torch.manual_seed(0)
    model.generate(**heard, temperature=(0.0, 0.4, 0.8), logprob_threshold=-0.01, max_new_tokens=6)
    assert len(calls) == 2


def test_texts_that_are_padded_before_their_beginning(models, extractor):
    original, model = models
    features = hear(extractor, make_sound(1.9), make_sound(1.2, seed=1)).input_features
    ids = torch.tensor([[256, 256, 257, 258, 261, 70], [257, 258, 261, 265, 71, 72]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = original(
        features, decoder_input_ids=ids, decoder_attention_mask=mask, decoder_position_ids=positions
    ).logits
    actual = model(features, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    assert psnr(expected[0, 2:].numpy(), actual[0, 2:].numpy()) >= 110
    assert psnr(expected[1].numpy(), actual[1].numpy()) >= 110
    assert not actual[0, :2].any()


@pytest.mark.parametrize(
    ("seconds", "options"),
    [
        (1.7, {}),
        (4.5, {"return_timestamps": True}),
        (1.7, {"return_timestamps": "word"}),
        (5.1, {"chunk_length_s": 2}),
    ],
    ids=["a window", "times", "words", "chunks"],
)
def test_the_pipeline(models, extractor, tokenizer, seconds, options):
    answers = []
    for model in models:
        transcribe = pipeline(
            "automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=extractor
        )
        sound = {"raw": make_sound(seconds), "sampling_rate": RATE}
        answers.append(transcribe(sound, generate_kwargs={"max_new_tokens": 16, "language": "en"}, **options))
    assert answers[0] == answers[1]
    assert answers[0]["text"]


def test_a_package_does_the_same(models, package, extractor):
    original, _ = models
    heard = hear(extractor, make_sound(5.3), make_sound(2.9, seed=1))
    options = {"language": "de", "return_timestamps": True, "max_new_tokens": 24}
    expected, actual = both((original, package), heard, **options)
    assert actual.tolist() == expected.tolist()


def test_the_program_makes_the_spectrogram_of_a_sound(package, extractor):
    model = package
    sound = make_sound(1.3)
    expected = extractor(sound, sampling_rate=RATE, return_tensors="np").input_features
    assert psnr(expected, model.spectrogram(sound).numpy()) >= 100


def test_what_does_not_fit_is_refused(package, extractor):
    model = package
    features = hear(extractor, make_sound(1)).input_features
    start = torch.tensor([[257]])
    for call, message in (
        (lambda: model(features[:, :, :-1], decoder_input_ids=start), "windows of 80 × 200"),
        (lambda: model(features * np.nan, decoder_input_ids=start), "NaN"),
        (lambda: model(features), "no decoder_input_ids"),
        (lambda: model(features, decoder_input_ids=torch.tensor([[99999]])), "99999"),
        (lambda: model.spectrogram(make_sound(2.1)), "32000 at most"),
        (lambda: model(features, decoder_input_ids=start.repeat(1, 449)), "449 tokens do not fit"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_the_class_has_to_fit_the_package(whisper_package):
    with pytest.raises(PackageError, match="ANEModelForSpeechSeq2Seq"):
        ANEModelForCTC.from_pretrained(whisper_package[1])
