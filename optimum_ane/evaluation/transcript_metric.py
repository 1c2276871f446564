"""Error rates of transcripts, by jiwer: nothing is fetched or executed from the Hub to score."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import datasets
import evaluate
import jiwer
import numpy as np

_DESCRIPTION = """\
Word and character error rates of transcripts, as jiwer counts them over all texts together: substitutions, deletions \
and insertions over the words, or characters, of what was said. Once for normalised texts, in lower case and without \
punctuation, and once for texts as they are."""

_CITATION = """\
@inproceedings{morris2004and,
  title={From {WER} and {RIL} to {MER} and {WIL}: improved evaluation measures for connected speech recognition},
  author={Morris, Andrew Cameron and Maier, Viktoria and Green, Phil},
  booktitle={Interspeech},
  year={2004}
}"""

_INPUTS = """
Args:
    predictions: What was heard in each sound.
    references: What was said in it.
Returns:
    A dictionary of fractions, above 1 where more was heard than was said: wer and cer of normalised texts, raw_wer and
    raw_cer of texts as they are.
"""

_INSIDE_WORDS = "'’-‐‑"
"""Apostrophes and hyphens are left out, and the letters on either side stay one word."""


class TranscriptMetric(evaluate.Metric):
    """WER and CER offline: `TranscriptMetric().compute(predictions=["fail better"], references=["Fail better."])`."""

    def __init__(self) -> None:
        """Makes the metric."""
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        # evaluate makes a cache directory in the home even when all is kept in memory; a home may be read-only.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/jitsi/jiwer"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        normalized = error_counts([normalize(each) for each in predictions], [normalize(each) for each in references])
        raw = error_counts(predictions, references)
        metrics = {}
        for name, counts in (("", normalized), ("raw_", raw)):
            word_errors, words, character_errors, characters = counts.sum(axis=0).tolist()
            metrics[f"{name}wer"] = word_errors / words if words else float("nan")
            metrics[f"{name}cer"] = character_errors / characters if characters else float("nan")
        return {name: metrics[name] for name in ("wer", "cer", "raw_wer", "raw_cer")}


def error_counts(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What is wrong in each transcript.

    Args:
        predictions: N texts.
        references: N texts.

    Returns:
        int64 (N, 4): wrong words, words that were said, wrong characters, characters that were said. Wrong are
        substitutions, deletions and insertions, the fewest that make the one of the other.
    """
    counts = np.zeros((len(predictions), 4), np.int64)
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        for column, found in ((0, jiwer.process_words(reference, prediction)),
                              (2, jiwer.process_characters(reference, prediction))):  # fmt: skip
            counts[row, column] = found.substitutions + found.deletions + found.insertions
            counts[row, column + 1] = found.hits + found.substitutions + found.deletions
    return counts


def normalize(text: str) -> str:
    """Lower case, without punctuation and symbols, single spaces; marks that belong to letters stay."""
    kept = []
    for character in unicodedata.normalize("NFKC", text).lower():
        is_mark = unicodedata.category(character)[0] in "PS"
        if character not in _INSIDE_WORDS:
            kept.append(" " if is_mark else character)
    return " ".join("".join(kept).split())
