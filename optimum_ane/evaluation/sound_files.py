"""Datasets of sounds with what is said in them.

Sounds are opened one at a time, when they are asked for: what is held of a dataset are names and transcripts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.described_files import DescribedKind, Files, open_described
from optimum_ane.evaluation.evaluator import Examples
from optimum_ane.evaluation.file_columns import FileKind
from optimum_ane.evaluation.sounds import MAX_BYTES, SUFFIXES, Sound, open_sound

AUDIO_NAMES = ("audio", "file_name", "file", "path", "filename", "sound")


@dataclass(frozen=True)
class Transcripts(Examples):
    """Sounds and what is said in each, ready to be scored.

    Attributes:
        files: N sounds.
        texts: N texts.
    """

    files: Files
    texts: list[str]

    def __len__(self) -> int:
        """How many sounds there are."""
        return len(self.texts)

    def open(self, row: int, rate: int) -> Sound:
        """A sound in one channel at a rate; rows count from 0.

        Raises:
            DatasetError: It is missing, damaged or too long; the message names its file or row.
        """
        place = self.files.place(row)
        return open_sound(self.files.read(row), place.name, rate, place.row, place.column)

    def digest(self) -> str:
        """SHA-256 of the files and of everything else: the same, the same scores. Reads every file."""
        return digest_of_files(self, self.files)


def digest_of_files(examples: Examples, files: Files) -> str:
    """SHA-256 of the files of examples, and of what else they hold."""
    found = hashlib.sha256()
    for row in range(len(files)):
        found.update(hashlib.sha256(files.read(row)).digest())
    found.update(examples.hash_fields(leave_out=("files",)).encode())
    return found.hexdigest()


def open_sounds(spec: DatasetSpec, task: str) -> Transcripts:
    """Opens a dataset of sounds with transcripts; see `open_described`.

    Args:
        spec: The dataset.
        task: Optimum's name of the task, for messages.

    Raises:
        DatasetError: It is missing, empty, of another kind, without transcripts, or its list names files elsewhere.
    """
    spec.check_options(task, "audio_column", "text_column")
    spec.check_config()
    file_kind = FileKind("a sound", "Audio", "--audio-column", MAX_BYTES)
    found = open_described(spec, DescribedKind(file_kind, "audio", spec.audio_column, AUDIO_NAMES, SUFFIXES))
    return Transcripts(found.name, "wer", None, found.files, [" ".join(texts) for texts in found.texts])
