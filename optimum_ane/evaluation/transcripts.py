"""How transcripts are scored, whatever wrote them, and what evaluators of sounds share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.bootstrap import ratio, score_of_counts
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.sound_files import Transcripts
from optimum_ane.evaluation.transcript_metric import TranscriptMetric, error_counts, normalize

SPEECH = "automatic-speech-recognition"

_DEFAULT_RATE = 16_000


def rate_of(extractor: Any) -> int:
    """Samples a second that a feature extractor wants."""
    return int(getattr(extractor, "sampling_rate", None) or _DEFAULT_RATE)


def score_transcripts(examples: Transcripts, texts: Sequence[str]) -> Scores:
    """WER and CER of what was heard, normalised and raw.

    Args:
        examples: The dataset.
        texts: N texts, what was heard.

    Raises:
        DatasetError: No transcript has a word.
    """
    heard, said = [normalize(text) for text in texts], [normalize(text) for text in examples.texts]
    counts = error_counts(heard, said)
    words = int(counts[:, 1].sum())
    if not words:
        raise DatasetError(f"{examples.name}: no transcript has a word in it; name their column with --text-column")
    metrics = TranscriptMetric().compute(predictions=list(texts), references=examples.texts)
    return Scores(
        metrics=metrics,
        resampled=score_of_counts(counts[:, :2], lambda sums: 1 - ratio(sums[0], sums[1], np.nan)),
        predictions=np.array(heard),
        right=int((counts[:, 0] == 0).sum()),
        counts={"words": words, "wrong words": int(counts[:, 0].sum())},
    )


def windows(count: int, length: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """How a long sound is cut into windows that overlap, as transformers' pipeline does by default.

    A sixth of a window on either side is there for the model to go by, and is another window's to answer for.

    Args:
        count: Samples of the sound.
        length: Samples of a window.
        step: Samples of a frame, of which the sixths are whole multiples.

    Yields:
        First sample, the one behind the last, and how many at the beginning and at the end are others'.
    """
    if count <= length:
        yield 0, count, 0, 0
        return
    length = max(step, length // step * step)
    beside = length // 6 // step * step
    for start in range(0, count, length - 2 * beside):
        end = min(start + length, count)
        yield start, end, beside if start else 0, beside if end < count else 0
        if end == count:
            return
