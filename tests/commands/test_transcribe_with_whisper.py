"""Sound files to text with a tiny package of Whisper: segments, words, languages, windows; and its scores."""

import pytest
import soundfile
from swift_checks import check_writer, swift_of
from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline
from whisper_models import RATE, SECONDS, make_sound

from optimum_ane import ANEModelForSpeechSeq2Seq
from optimum_ane.errors import InputError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.evaluation.sounds import Sound
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.transcribe import SpeechOptions, Transcriber


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index, seconds in enumerate((1.3, SECONDS)):
        soundfile.write(folder / f"{index}.wav", make_sound(seconds, seed=index), RATE, subtype="FLOAT")
    (folder / "transcripts.tsv").write_text("0.wav\tno one\n1.wav\tsaid it\n")
    return folder


@pytest.fixture(scope="module")
def transcriber(whisper_package):
    return Transcriber(whisper_package[1])


@pytest.fixture(scope="module")
def original(whisper_package):
    model, package, _ = whisper_package
    tokenizer, extractor = AutoTokenizer.from_pretrained(package), AutoFeatureExtractor.from_pretrained(package)
    return pipeline("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=extractor)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"language": "de", "task": "translate"}, {"generate_kwargs": {"language": "de", "task": "translate"}}),
        ({"timestamps": "segment"}, {"return_timestamps": True}),
    ],
)
def test_it_writes_what_the_originals_pipeline_writes(transcriber, original, options, arguments, monkeypatch):
    for model in (transcriber.model, original.model):  # random ones write on and on, until rounding tells
        monkeypatch.setattr(model.generation_config, "max_new_tokens", 8)
    sound = make_sound(1.7, seed=5)
    text, passages = transcriber.write(Sound(sound, RATE), SpeechOptions(**options))
    expected = original(sound.copy(), **arguments)
    assert text == expected["text"].strip()
    assert [(each.text, (each.start, each.end)) for each in passages] == [
        (chunk["text"], chunk["timestamp"]) for chunk in expected.get("chunks", [])
    ]


def test_what_it_cannot_do_is_refused(transcriber):
    transcriber.check(SpeechOptions("word", "de", "translate"))
    with pytest.raises(InputError, match="does not tell when a letter is said"):
        transcriber.check(SpeechOptions("char"))
    with pytest.raises(InputError, match="timestamps is 'hour'"):
        transcriber.check(SpeechOptions("hour"))
    with pytest.raises(InputError, match="the model refuses"):
        transcriber.write(Sound(make_sound(1), RATE), SpeechOptions(language="klingon"))


def test_it_is_scored_by_its_words(whisper_package, recordings, monkeypatch):
    original, package, _ = whisper_package
    model = ANEModelForSpeechSeq2Seq.from_pretrained(package)
    for each in (original, model):
        monkeypatch.setattr(each.generation_config, "max_new_tokens", 8)
    evaluator = get_evaluator("automatic-speech-recognition", original.config, "audio-text")
    examples = evaluator.load(DatasetSpec(str(recordings)))
    preprocessor = load_preprocessor(package, Manifest.read(package))
    report = evaluator.compare(original, model, preprocessor, examples, sequence_length=1, runtime="portable")
    assert (report.task, report.primary_metric, report.rows) == ("automatic-speech-recognition", "wer", 2)
    assert (report.counts["words"], report.agreement, report.drop) == (4, 1, 0)
    assert report.original.metrics["wer"] > 0


def test_the_swift_of_the_card_fits_the_programs(whisper_package):
    swift = swift_of(whisper_package[1])
    check_writer(whisper_package[1], swift)
    samples = SECONDS * RATE
    assert f"MLShapedArray<Float>(scalars: samples + filling, shape: [1, {samples}])" in swift
    assert '["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]' in swift
    assert f"seen: {SECONDS * 50}, after: prompt" in swift
