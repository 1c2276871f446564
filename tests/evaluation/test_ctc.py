"""Speech by CTC, scored beside its original."""

import numpy as np
import pytest
import soundfile
import torch
from speech_packages import LENGTH, RATE, make_sounds
from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline

from optimum_ane import ANEModelForCTC
from optimum_ane.compression.calibration_data import calibration_of_dataset
from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.ctc import CTC
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.evaluation.transcripts import windows
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.evaluate import evaluate_package

LENGTHS = (LENGTH, 3000, 21_000, 9_001, 400, 12_345)
SPEECH = "automatic-speech-recognition"


@pytest.fixture(scope="module")
def recordings(ctc_package, tmp_path_factory):
    """Sounds shorter and longer than the package, of which the original hears a word less than is said."""
    original, package, _ = ctc_package
    folder = tmp_path_factory.mktemp("recordings")
    tokenizer, extractor = AutoTokenizer.from_pretrained(package), AutoFeatureExtractor.from_pretrained(package)
    hear = pipeline(SPEECH, model=original, tokenizer=tokenizer, feature_extractor=extractor)
    lines, heard = [], []
    for index, length in enumerate(LENGTHS):
        sound = 0.1 * make_sounds(1, length, seed=index)[0]
        rate = RATE if index else 2 * RATE
        soundfile.write(folder / f"{index}.wav", np.repeat(sound, rate // RATE), rate, subtype="FLOAT")
        heard.append(hear(sound.copy(), chunk_length_s=LENGTH / RATE)["text"])
        lines.append(f"{index}.wav\t{heard[-1].upper()}, no.")
    (folder / "transcripts.tsv").write_text("\n".join(lines))
    return folder, heard


@pytest.fixture(scope="module")
def report(ctc_package, recordings):
    return evaluate_package(ctc_package[1], DatasetSpec(str(recordings[0])))


def test_both_are_scored_on_the_same_sounds(report, recordings):
    words = sum(len(text.replace("<unk>", " unk ").split()) + 1 for text in recordings[1])
    assert (report.task, report.rows, report.unit, report.truncated) == (SPEECH, len(LENGTHS), "sounds", 0)
    assert list(report.package.metrics) == ["wer", "cer", "raw_wer", "raw_cer"]
    assert report.counts["words"] == words
    # The original hears what the pipeline heard, in all but the first sound, which had another rate on its way.
    assert report.original.metrics["wer"] == pytest.approx(len(LENGTHS) / words, abs=0.12)
    assert report.original.metrics["wer"] < report.original.metrics["raw_wer"]
    assert report.psnr > 55
    assert report.agreement >= 4 / 6
    difference = report.package.metrics["wer"] - report.original.metrics["wer"]
    assert report.drop == pytest.approx(100 * difference)
    low, high = report.drop_interval
    assert low <= report.drop <= high


def test_windows_are_those_of_transformers_pipeline(ctc_package, recordings):
    """Of the package's length, with a sixth on either side: the same text as through the pipeline."""
    original, package, _ = ctc_package
    evaluator = CTC(original.config)
    examples = evaluator.load(DatasetSpec(str(recordings[0])))
    preprocessor = load_preprocessor(package, Manifest.read(package))
    answers = []
    for encoded in evaluator._encode_all(preprocessor, examples, 0):
        for feature in encoded.features:
            inputs = evaluator.collate(preprocessor, [feature])
            with torch.no_grad():
                logits = original(**inputs).logits[0].numpy()
            answers += evaluator.answers([feature], [{"logits": logits}])
    texts = {answer.row: "" for answer in answers}
    for row in texts:
        own = [answer for answer in answers if answer.row == row]
        texts[row] = own[0].read(np.concatenate([answer.ids for answer in own]))
    same = [texts[row] == text for row, text in enumerate(recordings[1])]
    assert same[1:] == [True] * (len(LENGTHS) - 1)


@pytest.mark.parametrize(("count", "length", "step"), [(10_000, 3000, 100), (3001, 3000, 320), (50_001, 8000, 320)])
def test_windows_give_every_sample_to_one_of_them(count, length, step):
    owners = np.zeros(count, int)
    for start, end, first, behind in windows(count, length, step):
        assert end - start <= length
        owners[start + first : end - behind] += 1
        assert (first % step, behind % step) == (0, 0)
    assert (owners == 1).all()
    assert list(windows(length, length, step)) == [(0, length, 0, 0)]


def test_gates(report):
    check_accuracy(report, AccuracyLimits(max_accuracy_drop=30))
    check_accuracy(report, AccuracyLimits(max_accuracy_drop=0, max_wer_increase=30))
    worse = 100 * (1 - report.original.metrics["wer"])
    report.package.metrics["wer"], before = 1.0, report.package.metrics["wer"]
    with pytest.raises(ValidationError, match=rf"wer on .* is worse than the original's by {worse:.2f} percentage"):
        check_accuracy(report, AccuracyLimits(max_wer_increase=0.5))
    report.package.metrics["wer"] = before
    with pytest.raises(ValidationError, match="max_bleu_loss is for text2text-generation and image-to-text and says"):
        check_accuracy(report, AccuracyLimits(max_bleu_loss=1))
    with pytest.raises(ValidationError, match="max_wer_increase is for automatic-speech-recognition and says nothing"):
        AccuracyLimits(max_wer_increase=1).check_task("fill-mask")


def test_a_worse_package_is_seen(ctc_package, recordings, report, monkeypatch):
    """Scores that are off, as of a mask that is not applied, cost words."""
    forward = ANEModelForCTC.forward

    def other(self, **inputs):
        answer = forward(self, **inputs)
        answer["logits"] = answer["logits"].roll(1, -1)
        return answer

    monkeypatch.setattr(ANEModelForCTC, "forward", other)
    found = evaluate_package(ctc_package[1], DatasetSpec(str(recordings[0])))
    assert found.drop > 50
    assert found.original.metrics == report.original.metrics


def test_calibration_takes_sounds(ctc_package, recordings):
    calibration = calibration_of_dataset(ctc_package[1], DatasetSpec(str(recordings[0])), rows=4)
    batch = calibration.batches[0]
    assert batch["input_values"].shape == batch["attention_mask"].shape == (1, LENGTH)
    assert (batch["input_values"].dtype, batch["attention_mask"].dtype) == (np.float32, np.int32)


def test_the_package_alone(ctc_package, recordings):
    found = evaluate_package(ctc_package[1], DatasetSpec(str(recordings[0])), with_reference=False)
    assert (found.original, found.drop, found.psnr) == (None, None, None)
    assert "wer" in found.summary()


def test_transcripts_without_a_word(ctc_package, tmp_path):
    soundfile.write(tmp_path / "s.wav", make_sounds(1, 4000)[0], RATE)
    (tmp_path / "transcripts.tsv").write_text("s.wav\t...\n")
    with pytest.raises(DatasetError, match="no transcript has a word in it"):
        evaluate_package(ctc_package[1], DatasetSpec(str(tmp_path)))
