"""SQuAD's metrics, versions 1.1 and 2.0: nothing is fetched or executed from the Hub to score."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

SQUAD, SQUAD_V2 = "squad", "squad_v2"
SQUAD_CONFIGS = (SQUAD, SQUAD_V2)
"""1.1, where every question has an answer in its context, and 2.0, where some have none."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

_DESCRIPTION = "Exact match and F1 of answers, as the official scripts of SQuAD 1.1 and 2.0 compute them."

_CITATION = """\
@inproceedings{rajpurkar2018know,
  title={Know What You Don't Know: Unanswerable Questions for {SQuAD}},
  author={Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
  booktitle={ACL},
  year={2018}
}"""

_INPUTS = """
Args:
    predictions: The answer to each question; with squad_v2 an empty text says that there is none.
    references: A list of answers that are right; with squad_v2 an empty list where there is none.
Returns:
    A dictionary of fractions: f1 and exact_match; with squad_v2 also HasAns_f1, HasAns_exact and NoAns_exact, over
    the questions with and without an answer, where there are any.
"""


class SquadMetric(evaluate.Metric):
    """SQuAD's metrics offline: `SquadMetric("squad").compute(predictions=["Rome"], references=[["Rome"]])`."""

    def __init__(self, config_name: str = SQUAD) -> None:
        """Makes the metric of a version, one of `SQUAD_CONFIGS`.

        Raises:
            ValueError: There is no such version.
        """
        if config_name not in SQUAD_CONFIGS:
            raise ValueError(f"no metric for {config_name!r}; there is one for each of: {', '.join(SQUAD_CONFIGS)}")
        super().__init__(config_name=config_name, keep_in_memory=True)

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
            reference_urls=["https://rajpurkar.github.io/SQuAD-explorer"],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        scores = question_scores(predictions, references, self.config_name)
        f1, exact = scores[:, 0], scores[:, 1]
        metrics = {"f1": float(f1.mean()), "exact_match": float(exact.mean())}
        answerable = np.array([bool(answers) for answers in references])
        if self.config_name == SQUAD_V2 and answerable.any():
            metrics["HasAns_f1"] = float(f1[answerable].mean())
            metrics["HasAns_exact"] = float(exact[answerable].mean())
        if self.config_name == SQUAD_V2 and not answerable.all():
            metrics["NoAns_exact"] = float(exact[~answerable].mean())
        return metrics


def question_scores(predictions: Sequence[str], references: Sequence[Sequence[str]], config: str) -> np.ndarray:
    """Scores each question by the right answer that fits best.

    Args:
        predictions: N answers.
        references: N lists of right answers.
        config: One of `SQUAD_CONFIGS`.

    Returns:
        float64 (N, 2): F1 and exact match, 0 or 1.
    """
    scores = np.zeros((len(predictions), 2))
    for index, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        if config == SQUAD_V2:
            answers = [answer for answer in answers if normalize_answer(answer)] or [""]
        guess = normalize_answer(prediction)
        right = [normalize_answer(answer) for answer in answers]
        scores[index, 0] = max((_f1(guess.split(), answer.split(), config) for answer in right), default=0.0)
        scores[index, 1] = guess in right
    return scores


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces: what the official scripts compare."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def _f1(guess: list[str], right: list[str], config: str) -> float:
    if config == SQUAD_V2 and not (guess and right):
        return float(guess == right)  # no answer is right where there is none; 1.1 knows no such case
    shared = sum((Counter(guess) & Counter(right)).values())
    return 2 * shared / (len(guess) + len(right)) if shared else 0.0
