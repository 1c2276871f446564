"""Sounds to text by CTC: the package, its model class, and transformers' pipeline over it."""

import jiwer
import pytest
import torch
from speech_packages import LENGTH, RATE, make_ctc_model, make_extractor, make_sounds
from tiny_models import psnr
from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline

from optimum_ane import ANEModelForCTC, export
from optimum_ane.errors import InputError
from optimum_ane.exporters.stock_audio import StockAudioANEConfig
from optimum_ane.modeling.audio import ctc_frames
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest

CTC = "automatic-speech-recognition"


@pytest.fixture(scope="module")
def model(ctc_package):
    return ANEModelForCTC.from_pretrained(ctc_package[1])


def make_pipeline(model, package, **options):
    tokenizer, extractor = AutoTokenizer.from_pretrained(package), AutoFeatureExtractor.from_pretrained(package)
    return pipeline(CTC, model=model, tokenizer=tokenizer, feature_extractor=extractor, **options)


def test_the_package_says_what_it_takes_and_holds_what_reads_its_answers(ctc_package):
    manifest = Manifest.read(ctc_package[1])
    assert (manifest.form.task, manifest.modality, manifest.text) == (CTC, "audio", None)
    assert (manifest.audio.length, manifest.audio.sampling_rate) == (LENGTH, RATE)
    assert {"vocab.json", "tokenizer_config.json", "preprocessor_config.json"} <= manifest.files.keys()


def test_logits_are_the_originals_for_sounds_of_any_length_with_rubbish_behind_them(ctc_package, model):
    original = ctc_package[0]
    sounds = torch.from_numpy(make_sounds(3, LENGTH))
    lengths = torch.tensor([LENGTH, 5321, 1203])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    padded = sounds * mask
    answer = model(padded, attention_mask=mask).logits
    assert psnr(original(padded, attention_mask=mask).logits, answer) > 60
    for row, length in enumerate(lengths):
        alone = original(sounds[row : row + 1, :length]).logits
        assert psnr(alone, answer[row : row + 1, : alone.shape[1]]) > 55
    assert psnr(original(padded).logits, answer) < 30  # the mask is not idle


@pytest.mark.parametrize("length", [LENGTH, 7999, 5321, 720, 400])
def test_a_shorter_sound_has_the_frames_that_it_has_by_itself(ctc_package, model, length):
    sound = torch.from_numpy(make_sounds(2, LENGTH)[:, :length])
    expected = ctc_package[0](sound).logits
    answer = model(sound).logits
    assert answer.shape == expected.shape
    assert psnr(expected, answer) > 55
    assert answer.argmax(-1).eq(expected.argmax(-1)).float().mean() > 0.9


def test_a_sound_too_short_for_a_frame_has_none_and_one_too_long_is_refused(model):
    assert model(torch.zeros(1, 399)).logits.shape[1] == 0
    with pytest.raises(InputError, match=r"\(1, 8001\), and this package takes rows of 8000"):
        model(torch.zeros(1, LENGTH + 1))


def test_outputs_as_a_tuple(model):
    sound = torch.from_numpy(make_sounds(1, 4000))
    (logits,) = model(sound, return_dict=False)
    assert logits.equal(model(sound).logits)


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (LENGTH, {}),
        (5000, {}),
        (4 * LENGTH + 1234, {"chunk_length_s": LENGTH / RATE, "stride_length_s": 0.1}),
        (3 * LENGTH, {"chunk_length_s": 0.3, "stride_length_s": (0.05, 0.02)}),
        (2 * LENGTH + 57, {"chunk_length_s": 0.4, "return_timestamps": "word"}),
        (LENGTH, {"return_timestamps": "char"}),
    ],
)
def test_the_pipeline_writes_what_it_writes_with_the_original(ctc_package, model, length, options):
    original, package, _ = ctc_package
    sound = make_sounds(1, length, seed=11)[0]
    ours = make_pipeline(model, package)(sound.copy(), **options)
    theirs = make_pipeline(original, package)(sound.copy(), **options)
    assert len(ours["text"]) > 5
    # A random network is undecided between two letters at a frame here and there.
    assert jiwer.cer(theirs["text"], ours["text"]) < 0.03
    chunks, expected = ours.get("chunks", []), theirs.get("chunks", [])
    assert bool(expected) is ("return_timestamps" in options)
    assert sum(each in expected for each in chunks) >= 0.9 * len(expected)


def test_models_without_a_mask_fill_up_with_silence(tmp_path):
    """As wav2vec2-base: a group norm over the whole time, which also sees what is filled up."""
    original = make_ctc_model("hubert")
    export(original, tmp_path / "out", processor=make_extractor(masks=False), audio_length=LENGTH, quiet=True)
    model = ANEModelForCTC.from_pretrained(tmp_path / "out")
    assert not (tmp_path / "out/vocab.json").exists()
    sound = torch.from_numpy(make_sounds(1, 5321))
    filled = torch.nn.functional.pad(sound, (0, LENGTH - 5321))
    answer = model(sound).logits
    assert answer.shape == original(sound).logits.shape
    assert psnr(original(filled).logits[:, : answer.shape[1]], answer) > 55
    with pytest.raises(InputError, match=r"takes no attention_mask"):
        model(filled, attention_mask=(torch.arange(LENGTH) < 5321).long()[None])


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("wav2vec2", {}),
        ("wav2vec2", {"num_attention_heads": 1, "feat_extract_norm": "layer", "do_stable_layer_norm": True}),
        ("hubert", {}),
        ("data2vec-audio", {"conv_pos_kernel_size": 5}),
        ("wav2vec2-conformer", {}),
    ],
)
@pytest.mark.parametrize("length", [LENGTH, 5003])
def test_modules_compute_what_the_originals_do(model_type, settings, length):
    """In float32, before any conversion, with and without a mask."""
    original = make_ctc_model(model_type, **settings)
    config = StockAudioANEConfig(original.config, CTC)
    form = config.complete(ExportForm(task=CTC, audio_length=length), None)
    config.limit_inputs(["attention_mask"] if settings.get("feat_extract_norm") else [])
    (program,) = config.programs(form)
    module = config.wrap(original, program)
    (batch,) = config.examples(form)
    with torch.no_grad():
        answer = module(*(batch[name] for name in config.input_names))
    logits = answer[0] if isinstance(answer, tuple) else answer
    assert psnr(original(**batch).logits, logits) > 120


def test_adapters_halve_the_frames():
    settings = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 48}
    original = make_ctc_model("wav2vec2", **settings)
    for length in (LENGTH, 5003, 1200):
        frames = original(torch.zeros(1, length)).logits.shape[1]
        assert ctc_frames(original.config, length, 1000, 100_000) == frames
