"""Speech by CTC: sounds are read in windows of the package's length, and what is heard is scored by its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Evaluator, Scores
from optimum_ane.evaluation.features import Encoded, Feature
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.preprocessors import SpeechPreprocessor
from optimum_ane.evaluation.sound_files import Transcripts, open_sounds
from optimum_ane.evaluation.transcripts import SPEECH, rate_of, score_transcripts, windows
from optimum_ane.modeling.audio import MASK, SOUNDS, ctc_frames


class HeardFrames(NamedTuple):
    """The most likely entry of the vocabulary at each frame of a window.

    Attributes:
        row: The dataset's row, from 0.
        ids: int64 (frames,).
        read: Makes a text of the frames of a whole sound.
    """

    row: int
    ids: np.ndarray
    read: Callable[[np.ndarray], str]


@dataclass(frozen=True)
class WindowOfSound(Feature):
    """A window of a sound, filled up to the package's length.

    Attributes:
        length: What of it is sound, in samples, or in frames of a spectrogram.
        first: How much at the beginning is another window's.
        behind: How much at the end is.
        read: See `HeardFrames`.
    """

    length: int = 0
    first: int = 0
    behind: int = 0
    read: Callable[[np.ndarray], str] = str


class CTC(Evaluator[Transcripts, WindowOfSound, HeardFrames]):
    """Scores a model that gives characters at each frame. Columns: the sound, what is said in it."""

    task: ClassVar[str] = SPEECH
    unit: ClassVar[str] = "sounds"
    axes: ClassVar[dict[str, int]] = {"logits": 2}
    has_tokens: ClassVar[bool] = False

    def load(self, spec: DatasetSpec) -> Transcripts:
        """Finds sounds with transcripts."""
        return open_sounds(spec, self.task)

    def encode(
        self, preprocessor: SpeechPreprocessor, examples: Transcripts, rows: Sequence[int], sequence_length: int
    ) -> Encoded[WindowOfSound]:
        """Makes a feature of each window; spectrograms are cut at the package's length.

        Raises:
            DatasetError: A sound is damaged, or the feature extractor cannot take it.
        """
        features, truncated = [], set()
        extractor, length = preprocessor.extractor, preprocessor.length
        rate = rate_of(extractor)
        (name,) = (name for name in preprocessor.inputs if name in SOUNDS)
        for row in rows:
            samples = examples.open(row, rate).samples
            is_of_samples = getattr(self.config, "conv_kernel", None) is not None
            cut = windows(len(samples), length, self._step) if is_of_samples else [(0, len(samples), 0, 0)]
            for start, end, first, behind in cut:
                values = _extract(extractor, samples[start:end], rate, name, f"{examples.name}, sound {row + 1}")
                if len(values) > length:
                    values = values[:length]
                    truncated.add(row)
                inputs = {name: _filled_up(values, length, float(getattr(extractor, "padding_value", 0.0) or 0.0))}
                if MASK in preprocessor.inputs:
                    inputs[MASK] = (torch.arange(length) < len(values)).long()
                features.append(WindowOfSound(inputs, row, None, len(values), first, behind, _reader(preprocessor)))
        return Encoded(features, frozenset(truncated))

    def collate(
        self, preprocessor: Any, features: Sequence[WindowOfSound], length: int | None = None
    ) -> dict[str, Tensor]:
        """Stacks windows, which are of one length."""
        return {name: torch.stack([feature.inputs[name] for feature in features]) for name in features[0].inputs}

    def answers(self, features: Sequence[WindowOfSound], outputs: Sequence[Outputs]) -> Iterable[HeardFrames]:
        """Keeps the most likely entry at each frame of the window's own."""
        for feature, output in zip(features, outputs, strict=True):
            logits = output["logits"]
            whole = len(next(value for name, value in feature.inputs.items() if name in SOUNDS))
            frames = ctc_frames(self.config, feature.length, len(logits), whole)
            # A frame for every `step` samples: what the ends of convolutions cost is missing behind the last alone.
            end = (feature.length - feature.behind) // self._step if feature.behind else frames
            yield HeardFrames(feature.row, logits[feature.first // self._step : end].argmax(-1), feature.read)

    def score(self, examples: Transcripts, answers: Sequence[HeardFrames]) -> Scores:
        """Reads the windows of each sound as one, and compares with what was said."""
        frames: dict[int, list[HeardFrames]] = {}
        for answer in answers:
            frames.setdefault(answer.row, []).append(answer)
        texts = [
            parts[0].read(np.concatenate([part.ids for part in parts])) if (parts := frames.get(row)) else ""
            for row in range(len(examples))
        ]
        return score_transcripts(examples, texts)

    @property
    def _step(self) -> int:
        """Samples from one frame to the next."""
        return int(getattr(self.config, "inputs_to_logits_ratio", None) or 1)

    def _encode_all(
        self, preprocessor: Any, examples: Transcripts, sequence_length: int
    ) -> Iterator[Encoded[WindowOfSound]]:
        """One sound at a time: sixteen long ones would fill the memory."""
        for row in range(len(examples)):
            yield self.encode(preprocessor, examples, [row], sequence_length)


def _reader(preprocessor: SpeechPreprocessor) -> Callable[[np.ndarray], str]:
    """What makes a text of frames: entries that repeat count once, and blanks between them not at all."""
    return lambda ids: str(preprocessor.tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def _extract(extractor: Any, samples: np.ndarray, rate: int, name: str, place: str) -> Tensor:
    """What a feature extractor makes of a sound, without filling it up: (samples,), or (frames, bins)."""
    try:
        given = extractor(samples, sampling_rate=rate, return_tensors="pt")
        values: Tensor = given[name][0]
    except Exception as error:  # extractors raise whatever a sound of odd length sets off
        raise DatasetError(
            f"{place}: the feature extractor cannot take it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); remove the sound"
        ) from error
    return values.float()


def _filled_up(values: Tensor, length: int, padding: float) -> Tensor:
    missing = values.new_full((length - len(values), *values.shape[1:]), padding)
    return torch.cat([values, missing])
