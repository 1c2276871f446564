"""Datasets of sounds with what is said in them: a folder with a list of its files, Parquet, or a dataset of the Hub.

Sounds are opened one at a time, when they are asked for: what is held of a dataset are names and transcripts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

from optimum_ane.evaluation.columns import Wanted, check_different, find_column
from optimum_ane.evaluation.dataset_errors import checked_text, dataset_error, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.evaluator import Examples
from optimum_ane.evaluation.file_columns import FileColumn, FileKind, file_column, read_file
from optimum_ane.evaluation.files import ParquetFile, Table, open_file
from optimum_ane.evaluation.hub_dataset import HubTable
from optimum_ane.evaluation.sounds import MAX_BYTES, SUFFIXES, Sound, open_sound

LISTS = ("metadata.csv", "metadata.jsonl", "transcripts.tsv", "transcripts.csv")
"""What names the files of a folder and what is said in each, the first that there is."""

_SOUNDS = FileKind("a sound", "Audio", "--audio-column", MAX_BYTES)
AUDIO_NAMES = ("audio", "file_name", "file", "path", "filename", "sound")
TEXT_NAMES = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text")


class SoundSource(Protocol):
    """Where the sounds of a dataset are."""

    def __len__(self) -> int:
        """How many sounds there are."""
        ...

    def read(self, row: int) -> bytes:
        """The file of a sound; rows count from 0."""
        ...

    def open(self, row: int, rate: int) -> Sound:
        """A sound in one channel at a rate; rows count from 0.

        Raises:
            DatasetError: It is missing, damaged or too long; the message names its file or row.
        """
        ...


@dataclass(frozen=True)
class Transcripts(Examples):
    """Sounds and what is said in each, ready to be scored.

    Attributes:
        sounds: N sounds.
        texts: N texts.
    """

    sounds: SoundSource
    texts: list[str]

    def __len__(self) -> int:
        """How many sounds there are."""
        return len(self.texts)

    def digest(self) -> str:
        """SHA-256 of the files and of everything else: the same, the same scores. Reads every file."""
        found = hashlib.sha256()
        for row in range(len(self)):
            found.update(hashlib.sha256(self.sounds.read(row)).digest())
        found.update(self._hash_fields(leave_out=("sounds",)).encode())
        return found.hexdigest()


class FolderSounds:
    """Sounds that are files.

    Attributes:
        paths: Of the files, in the order of the rows.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def read(self, row: int) -> bytes:
        """See `SoundSource.read`."""
        return read_file(self.paths[row], MAX_BYTES)

    def open(self, row: int, rate: int) -> Sound:
        """See `SoundSource.open`."""
        return open_sound(self.read(row), str(self.paths[row]), rate)


class TableSounds:
    """A column of files of a table."""

    def __init__(self, files: FileColumn) -> None:
        self._files = files

    def __len__(self) -> int:
        """How many sounds there are."""
        return len(self._files)

    def read(self, row: int) -> bytes:
        """See `SoundSource.read`."""
        return self._files.read(row)

    def open(self, row: int, rate: int) -> Sound:
        """See `SoundSource.open`."""
        return open_sound(self.read(row), self._files.name, rate, row + 1, self._files.column)


def open_sounds(spec: DatasetSpec, task: str) -> Transcripts:
    """Opens a dataset of sounds with transcripts.

    A folder holds one of `LISTS`, which names its files; such a list may also be named itself. Without a header its
    columns are the file, then the text.

    Args:
        spec: The dataset.
        task: Optimum's name of the task, for messages.

    Raises:
        DatasetError: It is missing, empty, of another kind, without transcripts, or its list names files elsewhere.
    """
    spec.check_options(task, "audio_column", "text_column")
    spec.check_config()
    path = Path(spec.dataset).expanduser()
    if spec.is_local and path.is_dir():
        if spec.split is not None:
            raise dataset_error(spec.dataset, "--split says nothing to a folder", "leave it out")
        found = next((path / name for name in LISTS if (path / name).is_file()), None)
        if found is None:
            remedy = "write one, with the name of a file and what is said in it on each line"
            raise dataset_error(spec.dataset, f"the folder holds none of {', '.join(LISTS)}", remedy)
        return _open_list(spec, open_file(found, _header(spec)), path)
    table = open_table(spec, _header(spec))
    if not isinstance(table, ParquetFile | HubTable):
        return _open_list(spec, table, path.parent)
    audio, text = _columns(spec, table)
    texts = [
        checked_text(value, table.name, row, text) for row, (value,) in read_rows(table, [text], spec.max_samples)
    ]
    return Transcripts(table.name, "wer", None, TableSounds(file_column(table, audio, len(texts), _SOUNDS)), texts)


def _header(spec: DatasetSpec) -> Any:
    return header_of(spec, (*AUDIO_NAMES, *TEXT_NAMES))


def _open_list(spec: DatasetSpec, table: Table, folder: Path) -> Transcripts:
    audio, text = _columns(spec, table)
    paths, texts = [], []
    for row, (name, value) in read_rows(table, [audio, text], spec.max_samples):
        paths.append(_path_of(name, folder, table.name, row, audio))
        texts.append(checked_text(value, table.name, row, text))
    return Transcripts(str(folder), "wer", None, FolderSounds(paths), texts)


def _columns(spec: DatasetSpec, table: Table) -> tuple[str, str]:
    if len(table.columns) == 2 and not table.headed and spec.audio_column is None and spec.text_column is None:
        return table.columns[0], table.columns[1]
    audio = find_column(table, Wanted("audio", "--audio-column", spec.audio_column, AUDIO_NAMES))
    text = find_column(table, Wanted("text", "--text-column", spec.text_column, TEXT_NAMES))
    check_different(table, (audio, text), "--audio-column and --text-column")
    return audio, text


def _path_of(value: Any, folder: Path, name: str, row: int, column: str) -> Path:
    """The file that a list names, which lies in its folder."""
    text = checked_text(value, name, row, column)
    parts = PurePosixPath(text)
    if not text or PureWindowsPath(text).is_absolute() or parts.is_absolute() or ".." in parts.parts:
        what = f"{quoted(text)} is no file of the list's own folder"
        raise dataset_error(name, what, "name files relative to it", row=row, column=column)
    path = folder / parts
    if path.suffix.lower() not in SUFFIXES:
        what = f"{quoted(text)} is no sound that is read: {', '.join(SUFFIXES)}"
        raise dataset_error(
            name, what, "convert it, or name another column with --audio-column", row=row, column=column
        )
    return path
