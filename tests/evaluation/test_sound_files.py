"""Folders and tables of sounds with what is said in them."""

import io
import json

import datasets
import numpy as np
import pytest
import soundfile

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.sound_files import open_sounds

RATE = 16_000
TEXTS = ["one", "two words", "three more words"]


def make_sound(index):
    return np.full(100 * (index + 1), (index + 1) / 10, np.float32)


def save_sounds(folder):
    for index in range(len(TEXTS)):
        soundfile.write(folder / f"s{index}.wav", make_sound(index), RATE, subtype="FLOAT")
    return folder


def opened(dataset, **options):
    found = open_sounds(DatasetSpec(str(dataset), **options), "automatic-speech-recognition")
    for row in range(len(found)):
        assert np.array_equal(found.open(row, RATE).samples, make_sound(row))
    return found


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("transcripts.tsv", [f"s{index}.wav\t{text}" for index, text in enumerate(TEXTS)]),
        ("metadata.csv", ["file_name,transcription", *(f"s{index}.wav,{text}" for index, text in enumerate(TEXTS))]),
        ("transcripts.csv", ["sentence,id,path", *(f'"{text}",7,s{index}.wav' for index, text in enumerate(TEXTS))]),
        ("metadata.jsonl", [json.dumps({"file_name": f"s{i}.wav", "text": text}) for i, text in enumerate(TEXTS)]),
    ],
)
def test_a_folder_with_a_list(tmp_path, name, lines):
    (save_sounds(tmp_path) / name).write_text("\n".join(lines))
    found = opened(tmp_path)
    assert (found.name, found.texts) == (str(tmp_path), TEXTS)
    assert opened(tmp_path / name).texts == TEXTS
    assert opened(tmp_path, max_samples=2).texts == TEXTS[:2]


def test_columns_are_named_where_they_are_not_recognised(tmp_path):
    lines = ["what,clip", *(f"{text},s{index}.wav" for index, text in enumerate(TEXTS))]
    (save_sounds(tmp_path) / "list.csv").write_text("\n".join(lines))
    assert opened(tmp_path / "list.csv", audio_column="clip", text_column="what").texts == TEXTS
    assert opened(tmp_path / "list.csv", audio_column="1", text_column="what").texts == TEXTS
    with pytest.raises(DatasetError, match=r"no audio column is recognised.*--audio-column|audio_column"):
        opened(tmp_path / "list.csv", text_column="what")
    with pytest.raises(DatasetError, match="one column serves twice"):
        opened(tmp_path / "list.csv", audio_column="clip", text_column="clip")


def table_of(texts):
    rows = []
    for index, text in enumerate(texts):
        file = io.BytesIO()
        soundfile.write(file, make_sound(index), RATE, format="WAV", subtype="FLOAT")
        rows.append({"audio": {"bytes": file.getvalue(), "path": f"s{index}.wav"}, "text": text})
    return datasets.Dataset.from_list(rows)


def test_parquet_as_datasets_writes_it(tmp_path):
    table_of(TEXTS).to_parquet(tmp_path / "rows.parquet")
    found = opened(tmp_path / "rows.parquet")
    assert found.texts == TEXTS
    assert found.digest() == opened(tmp_path / "rows.parquet").digest()
    assert found.digest() != opened(tmp_path / "rows.parquet", max_samples=2).digest()


def test_parquet_without_the_files(tmp_path):
    datasets.Dataset.from_dict({"audio": ["s0.wav"], "text": ["one"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match=r"a sound's bytes are expected, found 's0\.wav'"):
        opened(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../s0.wav", "no file of the list's own folder"),
        ("/etc/passwd.wav", "no file of the list's own folder"),
        ("C:\\\\s0.wav", "no file of the list's own folder"),
        ("a/../../s0.wav", "no file of the list's own folder"),
        ("s0.m4a", r"'s0\.m4a' is no sound that is read"),
        ("", "no file of the list's own folder"),
    ],
)
def test_lists_that_name_other_things(tmp_path, name, message):
    (tmp_path / "transcripts.tsv").write_text(f"s0.wav\tone\n{name}\ttwo\n")
    with pytest.raises(DatasetError, match=f"row 2, column 0: .*{message}"):
        open_sounds(DatasetSpec(str(tmp_path)), "automatic-speech-recognition")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"the folder holds none of metadata\.csv"):
        opened(tmp_path)
    (tmp_path / "transcripts.tsv").write_text("s0.wav\tone\n")
    with pytest.raises(DatasetError, match=r"s0\.wav: cannot be read \(No such file or directory\); check the path"):
        opened(tmp_path)
    with pytest.raises(DatasetError, match="says nothing to automatic-speech-recognition"):
        opened(tmp_path, image_column="x")
