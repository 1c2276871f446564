"""Sound files to text on the command line, with a tiny package of CTC."""

import json

import numpy as np
import pytest
import soundfile
from command_line import run_command
from speech_packages import LENGTH, RATE, make_sounds
from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline

from optimum_ane.commands.transcribe import TranscribeCommand
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.sound_files import open_sounds
from optimum_ane.workflows.transcribe import SpeechOptions, transcribe


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index, length in enumerate((LENGTH, 3 * LENGTH + 77, 2000)):
        soundfile.write(folder / f"{index}.wav", 0.1 * make_sounds(1, length, seed=index)[0], RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def run(ctc_package, recordings, capsys, monkeypatch):
    monkeypatch.chdir(recordings)

    def command(*line, code=0, package=ctc_package[1]):
        run_command(TranscribeCommand, "transcribe", [package, *line], code)
        output = capsys.readouterr()
        return output.err.strip().splitlines()[-1] if code else output

    return command


def test_one_file_gives_its_text(run, ctc_package, recordings):
    original, package, _ = ctc_package
    output = run("0.wav")
    tokenizer, extractor = AutoTokenizer.from_pretrained(package), AutoFeatureExtractor.from_pretrained(package)
    hear = pipeline("automatic-speech-recognition", model=original, tokenizer=tokenizer, feature_extractor=extractor)
    sound, _ = soundfile.read(recordings / "0.wav", dtype="float32")
    assert output.out == hear(sound)["text"].strip() + "\n"
    assert "0.5 s of sound in" in output.err
    assert "portable runtime on this machine's CPU, which tells nothing of a device" in output.err


def test_several_files_give_a_list_that_is_a_dataset(run, recordings):
    output = run("0.wav", "1.wav", "2.wav")
    lines = [line.split("\t") for line in output.out.splitlines()]
    assert [file for file, _ in lines] == ["0.wav", "1.wav", "2.wav"]
    assert len(lines[1][1]) > len(lines[0][1]) > len(lines[2][1]) > 0  # the second is read in windows
    assert "[3 of 3: 0.1 s of sound in" in output.err
    (recordings / "transcripts.tsv").write_text(output.out)
    assert open_sounds(DatasetSpec(str(recordings)), "automatic-speech-recognition").texts == [
        text for _, text in lines
    ]


def test_timestamps_and_json(run):
    (found,) = json.loads(run("1.wav", "--json", "--timestamps").out)
    assert (found["file"], found["runtime"], found["seconds"]) == ("1.wav", "portable", (3 * LENGTH + 77) / RATE)
    words = found["passages"]
    assert " ".join(each["text"] for each in words).replace("  ", " ").strip() == found["text"]
    starts = [each["start"] for each in words]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < words[-1]["end"] <= found["seconds"] + 0.1
    lines = run("1.wav", "--timestamps", "char").out.splitlines()
    assert lines[0] == found["text"]
    assert lines[1].startswith("[0.")
    assert json.loads(run("0.wav", "--json").out)[0]["passages"] == []


def test_another_rate_and_two_channels_are_told(run, recordings, tmp_path):
    sound, _ = soundfile.read(recordings / "0.wav", dtype="float32")
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack([np.repeat(sound, 2)] * 2, 1), 2 * RATE)
    output = run(path)
    assert f"{path}: 2 channels mixed down to one" in output.err
    assert f"{path}: 32,000 Hz brought to 16,000 Hz" in output.err
    assert len(output.out) > 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["missing.wav"], "error: missing.wav: cannot be read (No such file or directory); check the path"),
        (["voice.m4a"], "error: voice.m4a: sounds of kind .m4a are not read"),
        (["0.wav", "--language", "german"], "error: --language is for models of several languages"),
        (["0.wav", "--task", "translate"], "error: --task is for models of several languages"),
        (["0.wav", "--timestamps", "segment"], "error: this package writes letter by letter and knows no segments"),
    ],
)
def test_what_cannot_be_done_is_said(run, line, message):
    assert run(*line, code=1).startswith(message)


def test_packages_of_other_tasks_are_refused(run, tiny_package):
    error = run("0.wav", code=1, package=tiny_package("distilbert", "text-classification"))
    assert "is a package for text-classification, which writes nothing of what is said" in error


def test_from_python(ctc_package, recordings):
    seen = []
    found = transcribe(
        ctc_package[1], [recordings / "2.wav", recordings / "0.wav"], SpeechOptions("word"), each=seen.append
    )
    assert seen == found
    assert [each.file for each in found] == [str(recordings / "2.wav"), str(recordings / "0.wav")]
    assert all(each.passages for each in found)
