"""BLEU and chrF, by sacrebleu: nothing is fetched or executed from the Hub to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from optimum_ane.evaluation.bootstrap import ResampledScore, score_of_counts

_DESCRIPTION = """\
BLEU and chrF of a corpus, as sacrebleu computes them by default: BLEU with the tokenizer 13a and exponential \
smoothing, chrF of n-grams of six characters. Both as fractions of 1."""

_CITATION = """\
@inproceedings{post-2018-call,
  title={A Call for Clarity in Reporting {BLEU} Scores},
  author={Post, Matt},
  booktitle={Proceedings of the Third Conference on Machine Translation},
  year={2018}
}"""

_INPUTS = """
Args:
    predictions: What was written for each text.
    references: A list of texts that are right for it.
Returns:
    A dictionary of fractions: bleu and chrf.
"""

_ORDERS = 4


class TranslationMetric(evaluate.Metric):
    """BLEU and chrF offline: `TranslationMetric().compute(predictions=["a cat"], references=[["the cat"]])`."""

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
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        # sacrebleu wants the first right answers of all texts, then the second ones; None where there are fewer.
        most = max(map(len, references))
        streams: Any = [[each[index] if index < len(each) else None for each in references] for index in range(most)]
        return {
            "bleu": BLEU().corpus_score(predictions, streams).score / 100,
            "chrf": CHRF().corpus_score(predictions, streams).score / 100,
        }


def resampled_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ResampledScore:
    """BLEU, 0 to 1, on resamples of the texts: it depends on them through sums of counts alone."""
    metric = BLEU(effective_order=True)
    counts = np.zeros((len(predictions), 2 * _ORDERS + 2))
    for row, (prediction, right) in enumerate(zip(predictions, references, strict=True)):
        found = metric.sentence_score(prediction, right)
        counts[row] = [*found.counts, *found.totals, found.sys_len, found.ref_len]

    def score(drawn: np.ndarray) -> np.ndarray:
        return np.array([_bleu_of_sums(sums) for sums in drawn.T.astype(int)])

    return score_of_counts(counts, score)


def _bleu_of_sums(sums: np.ndarray) -> float:
    found = BLEU.compute_bleu(
        correct=sums[:_ORDERS].tolist(),
        total=sums[_ORDERS : 2 * _ORDERS].tolist(),
        sys_len=int(sums[-2]),
        ref_len=int(sums[-1]),
        smooth_method="exp",
    )
    return found.score / 100
