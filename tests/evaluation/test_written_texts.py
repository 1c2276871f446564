"""Models that write texts, of texts, images and sounds: what original and package write is scored on the same rows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from speech_packages import make_sounds
from tiny_models import WORDS, make_tokenizer
from transformers import (
    GPT2Config,
    T5Config,
    T5ForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.image_to_text import ImageToText
from optimum_ane.evaluation.preprocessors import SpeechPreprocessor, TextAndImagePreprocessor
from optimum_ane.evaluation.speech_recognition import SpeechRecognition
from optimum_ane.evaluation.text2text_generation import Text2TextGeneration
from optimum_ane.evaluation.transcript_metric import normalize

WIDE = len(make_tokenizer())
TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def randomised(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def make_t5(seed=0):
    config = T5Config(
        vocab_size=WIDE, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = randomised(T5ForConditionalGeneration(config), seed)
    model.generation_config.update(max_new_tokens=9, do_sample=False)
    return model


class Package:
    """Stands for a package: an original that writes something else for some rows."""

    def __init__(self, model, spoil=()):
        self.model, self.spoil, self.calls = model, spoil, []

    def forward(self, input_ids=None, attention_mask=None, pixel_values=None, input_features=None):
        raise NotImplementedError

    def generate(self, **inputs):
        tokens = self.model.generate(**inputs)
        self.calls.append(inputs)
        return torch.full_like(tokens, 7) if len(self.calls) - 1 in self.spoil else tokens


def make_texts(count=12):
    random = np.random.default_rng(1)
    return [" ".join(random.choice(WORDS.split(), random.integers(2, 9))) for _ in range(count)]


def write(model, tokenizer, text):
    tokens = model.generate(**{name: tokenizer(text, return_tensors="pt")[name] for name in ("input_ids",)})
    return tokenizer.decode(tokens[0], skip_special_tokens=True)


def compare(evaluator, original, package, preprocessor, spec, length=8):
    examples = evaluator.load(spec)
    return evaluator.compare(original, package, preprocessor, examples, sequence_length=length, runtime="portable")


@pytest.fixture(scope="module")
def t5():
    return make_t5()


def test_translations_are_scored_against_targets(t5, tmp_path):
    tokenizer, texts = make_tokenizer(), make_texts()
    targets = [write(t5, tokenizer, text) for text in texts]
    targets[3] = "something else"
    lines = [json.dumps({"source": text, "target": target}) for text, target in zip(texts, targets, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    report = compare(
        Text2TextGeneration(t5.config),
        t5,
        Package(t5, spoil=[0, 5]),
        tokenizer,
        DatasetSpec(str(tmp_path / "pairs.jsonl")),
        32,
    )
    assert (report.primary_metric, report.rows, report.truncated, report.psnr) == ("bleu", 12, 0, None)
    assert list(report.package.metrics) == ["bleu", "chrf", "exact_match"]
    assert report.original.metrics["exact_match"] == pytest.approx(11 / 12)
    assert report.package.metrics["exact_match"] == pytest.approx(9 / 12)
    assert (report.original.right, report.agreement) == (11, pytest.approx(10 / 12))
    assert report.drop == pytest.approx(100 * (report.original.metrics["bleu"] - report.package.metrics["bleu"]))
    assert report.drop > 1
    assert report.drop_interval[0] <= report.drop <= report.drop_interval[1]
    with pytest.raises(ValidationError, match=r"bleu on .* is worse than the original's by \d+\.\d\d points"):
        check_accuracy(report, AccuracyLimits(max_bleu_loss=0.5))
    check_accuracy(report, AccuracyLimits(max_bleu_loss=report.drop + 0.01, max_accuracy_drop=0))
    with pytest.raises(ValidationError, match="worse than the original by"):
        check_accuracy(report, AccuracyLimits(max_accuracy_drop=0.5))


def test_without_targets_the_original_says_what_is_right(t5, tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(make_texts()))
    spec, tokenizer = DatasetSpec(str(tmp_path / "texts.txt"), max_samples=8), make_tokenizer()
    evaluator = Text2TextGeneration(t5.config)
    report = compare(evaluator, t5, Package(t5, spoil=[2]), tokenizer, spec)
    assert (report.primary_metric, report.rows, report.drop) == ("exact_match", 8, pytest.approx(12.5))
    assert report.original.metrics == pytest.approx({"exact_match": 1, "bleu": 1, "chrf": 1})
    assert report.truncated > 0
    with pytest.raises(ValidationError, match="text2text-generation is scored against the original"):
        compare(evaluator, None, Package(t5), tokenizer, spec)


def test_both_models_are_given_the_same_rows_one_at_a_time(t5, tmp_path):
    (tmp_path / "texts.csv").write_text("document,summary\n" + "\n".join(f"{text},x" for text in make_texts(4)))
    first, second = Package(t5), Package(t5)
    spec = DatasetSpec(str(tmp_path / "texts.csv"))
    compare(Text2TextGeneration(t5.config), first, second, make_tokenizer(), spec, length=5)
    assert len(first.calls) == len(second.calls) == 4
    for theirs, ours in zip(first.calls, second.calls, strict=True):
        assert theirs.keys() == ours.keys() == {"input_ids", "attention_mask"}
        assert theirs["input_ids"].equal(ours["input_ids"])
        assert theirs["input_ids"].shape[1] <= 5


@pytest.fixture(scope="module")
def captioner():
    config = VisionEncoderDecoderConfig(
        encoder=ViTConfig(image_size=16, patch_size=8, **LAYERS).to_dict(),
        decoder=GPT2Config(
            vocab_size=WIDE, n_embd=16, n_layer=1, n_head=2, n_positions=16, add_cross_attention=True, **TOKENS
        ).to_dict(),
        decoder_start_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = randomised(VisionEncoderDecoderModel(config))
    model.generation_config.update(max_new_tokens=7, do_sample=False)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    return model, TextAndImagePreprocessor(make_tokenizer(), processor)


def save_pictures(folder, count=5):
    random = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_captions_of_a_folder_are_compared_with_the_originals(captioner, tmp_path):
    model, preprocessor = captioner
    report = compare(
        ImageToText(model.config),
        model,
        Package(model, spoil=[1]),
        preprocessor,
        DatasetSpec(str(save_pictures(tmp_path))),
    )
    assert (report.primary_metric, report.drop, report.agreement) == ("exact_match", pytest.approx(20), 0.8)
    assert "5 images" in "\n".join(report._remarks())


def test_captions_of_a_dataset_are_scored(captioner, tmp_path):
    model, preprocessor = captioner
    lines = [json.dumps({"file_name": f"{index}.png", "captions": ["the film", "a dull plot"]}) for index in range(4)]
    (save_pictures(tmp_path, 4) / "metadata.jsonl").write_text("\n".join(lines))
    report = compare(ImageToText(model.config), model, Package(model), preprocessor, DatasetSpec(str(tmp_path)))
    assert (report.primary_metric, report.drop, report.agreement, report.rows) == ("bleu", 0, 1, 4)
    lonely = compare(ImageToText(model.config), None, Package(model), preprocessor, DatasetSpec(str(tmp_path)))
    assert lonely.package.metrics == report.package.metrics
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0\.png"):
        compare(ImageToText(model.config), model, Package(model), preprocessor, DatasetSpec(str(tmp_path)))


@pytest.fixture(scope="module")
def whisper():
    config = WhisperConfig(
        vocab_size=WIDE, num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=50,
        max_target_positions=20, decoder_start_token_id=0, suppress_tokens=None, begin_suppress_tokens=None, **TOKENS,
    )  # fmt: skip
    model = randomised(WhisperForConditionalGeneration(config))
    # Words alone: a random model is fond of marks that are left out of texts.
    model.generation_config.update(max_new_tokens=8, do_sample=False, suppress_tokens=[0, 1, 2, 3, 4])
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return model, SpeechPreprocessor(make_tokenizer(), extractor, 16_000, ("audio",))


def test_what_a_decoder_hears_is_scored_by_its_words(whisper, tmp_path):
    model, preprocessor = whisper
    lines = []
    for index, length in enumerate((16_000, 9_000, 4_321)):
        sound = make_sounds(1, length, seed=index)[0] * 0.1
        soundfile.write(tmp_path / f"{index}.wav", sound, 16_000, subtype="FLOAT")
        features = preprocessor.extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
        text = preprocessor.tokenizer.decode(model.generate(features)[0], skip_special_tokens=True)
        lines.append(f"{index}.wav\t{text.upper()}!")
    (tmp_path / "transcripts.tsv").write_text("\n".join(lines))
    words = sum(len(normalize(line.split("\t")[1]).split()) for line in lines)
    report = compare(
        SpeechRecognition(model.config), model, Package(model, spoil=[1]), preprocessor, DatasetSpec(str(tmp_path))
    )
    assert report.original.metrics["wer"] == 0
    assert report.original.metrics["raw_wer"] > 0.9
    assert 0 < report.package.metrics["wer"] <= 16 / words
    assert report.drop == pytest.approx(100 * report.package.metrics["wer"])
    assert (report.unit, report.agreement) == ("sounds", pytest.approx(2 / 3))


def test_a_model_that_cannot_write_is_refused(t5, tmp_path):
    (tmp_path / "texts.txt").write_text("a film")
    with pytest.raises(ValidationError, match=r"the package has no generate\(\)"):
        compare(
            Text2TextGeneration(t5.config),
            t5,
            SimpleNamespace(),
            make_tokenizer(),
            DatasetSpec(str(tmp_path / "texts.txt")),
        )
