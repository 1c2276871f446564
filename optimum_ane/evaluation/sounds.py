"""Opens one sound of a dataset or of a command line, which is untrusted: bounded in bytes, rate, channels and length.

It is read through libsndfile, mixed down to one channel and brought to the rate that a model takes, with a notice.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error
from optimum_ane.evaluation.file_columns import read_file

if TYPE_CHECKING:
    import soundfile

MAX_BYTES = 1024**3
"""Largest file of one sound."""

MAX_SAMPLES = 2**27
"""Most samples of one sound in one channel: 46 minutes at 48 kHz, 2.3 hours at 16 kHz, 512 MB in memory."""

MAX_CHANNELS = 32
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000
"""Samples a second."""

SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")
"""Of the files that a folder is searched for, in lower case."""

_BEGINNINGS = (
    b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"riff", b"ID3",
    *(bytes((0xFF, second)) for second in (0xFA, 0xFB, 0xF2, 0xF3, 0xE2, 0xE3)),
)  # fmt: skip
"""How files of the formats that are read begin; libsndfile reads more, which nobody keeps speech in."""

_MakeError: TypeAlias = Callable[[str, str], DatasetError]
"""Takes what is wrong and what to do."""

_BLOCK = 1 << 18
_OTHER_FORMAT = "convert it first: ffmpeg -i {name} -ac 1 -ar 16000 sound.wav"


@dataclass(frozen=True)
class Sound:
    """A sound as a model takes it.

    Attributes:
        samples: float32 (S,), one channel, −1 to 1 as a rule.
        rate: Samples a second.
        notices: What was done to it, in a few words each: `"44,100 Hz brought to 16,000 Hz"`.
    """

    samples: np.ndarray
    rate: int
    notices: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def read_sound(path: str | Path, rate: int) -> Sound:
    """Reads a file.

    Args:
        path: Of a file whose suffix is one of `SUFFIXES`.
        rate: Samples a second that are wanted.

    Raises:
        DatasetError: It is missing, of another kind, too large, damaged, empty, or holds no finite numbers.
    """
    path = Path(path).expanduser()
    name = str(path)
    if path.suffix.lower() not in SUFFIXES:
        what = f"sounds of kind {path.suffix or 'without a suffix'} are not read, {', '.join(SUFFIXES)} are"
        raise dataset_error(name, what, _OTHER_FORMAT.format(name=path.name))
    return open_sound(read_file(path, MAX_BYTES), name, rate)


def open_sound(data: bytes, name: str, rate: int, row: int | None = None, column: str | None = None) -> Sound:
    """Opens a sound.

    Args:
        data: What the file holds.
        name: The file, or the dataset.
        rate: Samples a second that are wanted. From another rate it is resampled by a polyphase filter
            (`scipy.signal.resample_poly`, a Kaiser window).
        row: The dataset's row, 1-based, where `name` is a dataset.
        column: The dataset's column.

    Raises:
        DatasetError: See `read_sound`.
    """

    def error(what: str, remedy: str) -> DatasetError:
        return dataset_error(name, what, remedy, row=row, column=column)

    import soundfile

    if len(data) > MAX_BYTES:
        raise error(f"the sound has more than {MAX_BYTES:,} bytes, which is the limit", "cut or remove it")
    if not data.startswith(_BEGINNINGS):
        what = "the sound is empty" if not data else "no sound of a format that is read (WAV, FLAC, Ogg, MP3, AIFF …)"
        raise error(what, _OTHER_FORMAT.format(name=Path(name).name))
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_form(file, error)
            _check_whole(file, error)
            own_rate, channels = file.samplerate, file.channels
            most = min(MAX_SAMPLES, MAX_SAMPLES * own_rate // rate)
            samples = _read_mono(file, most, error)
    except DatasetError:
        raise
    except Exception as cause:  # libsndfile's errors, and what its wrapper makes of damaged headers
        text = " ".join(str(cause).split())[:200]
        raise error(
            f"the sound cannot be read ({type(cause).__name__}: {text})", "save it again or remove it"
        ) from cause
    if not len(samples):
        raise error("the sound holds no samples", "record it again or remove it")
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples)))
        raise error(f"the sound holds NaN or infinity, first at sample {first}", "save it again or remove it")
    notices = []
    if channels > 1:
        notices.append(f"{channels} channels mixed down to one")
    if own_rate != rate:
        notices.append(f"{own_rate:,} Hz brought to {rate:,} Hz")
        samples = resample(samples, own_rate, rate)
    return Sound(samples, rate, tuple(notices))


def resample(samples: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    """Brings a sound, float32 (S,), to another rate: float32 (⌈S · rate / own_rate⌉,)."""
    from scipy.signal import resample_poly

    shared = math.gcd(own_rate, rate)
    return resample_poly(samples, rate // shared, own_rate // shared).astype(np.float32, copy=False)


_SHOULD_BE = re.compile(r":\s*(?P<promised>\d+) \(should be (?P<there>\d+)\)")
_STREAMED = 0x7FFF0000
"""Bytes. Headers that were written before the length was known hold this or more."""


def _check_form(file: soundfile.SoundFile, error: _MakeError) -> None:
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        what = f"{file.samplerate:,} samples a second; {LOWEST_RATE:,} to {HIGHEST_RATE:,} are read"
        raise error(what, "save it with the rate that it was recorded at")
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise error(f"{file.channels} channels; up to {MAX_CHANNELS} are read", "mix it down")


def _check_whole(file: soundfile.SoundFile, error: _MakeError) -> None:
    """Refuses what is shorter than its header says, which libsndfile reads to its end without a word.

    It writes down both numbers, `data : 32000 (should be 7956)`. Sounds that are streamed promise none, or the most.
    """
    for found in _SHOULD_BE.finditer(file.extra_info):
        promised, there = int(found["promised"]), int(found["there"])
        if 0 < there < promised < _STREAMED:
            raise error(
                f"the file is cut off: {there:,} bytes of sound are there, and its header says {promised:,}",
                "copy or download it again",
            )


def _read_mono(file: soundfile.SoundFile, most: int, error: _MakeError) -> np.ndarray:
    """The mean of all channels, block by block: a header may promise any length."""
    blocks: list[np.ndarray] = []
    count = 0
    while True:
        block = file.read(_BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        count += len(block)
        if count > most:
            raise error(f"the sound has more than {most:,} samples, which is the limit at its rate", "cut it")
        blocks.append(block.mean(axis=1))
