"""seqeval's metrics of entities: nothing is fetched or executed from the Hub to score."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

_DESCRIPTION = "seqeval's metrics of entities, in its default mode, that of the script conlleval."

_CITATION = """\
@misc{seqeval,
  title={{seqeval}: A Python framework for sequence labeling evaluation},
  url={https://github.com/chakki-works/seqeval},
  author={Hiroki Nakayama},
  year={2018}
}"""

_INPUTS = """
Args:
    predictions: A list of tags for each row, in IOB1, IOB2, IOE1, IOE2 or IOBES.
    references: The true ones, in the same form.
Returns:
    A dictionary of fractions: f1, precision and recall of entities, all types together, and accuracy of tags.
"""


class EntityMetric(evaluate.Metric):
    """seqeval offline: `EntityMetric().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "O"]])`."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        # evaluate makes a cache directory in the home even when all is kept in memory; a home may be read-only.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return {
            "f1": float(f1_score(references, predictions, zero_division=0)),
            "precision": float(precision_score(references, predictions, zero_division=0)),
            "recall": float(recall_score(references, predictions, zero_division=0)),
            "accuracy": float(accuracy_score(references, predictions)),
        }


def entity_counts(gold: Sequence[list[str]], predicted: Sequence[list[str]]) -> np.ndarray:
    """Counts entities row by row: what F1 depends on.

    Args:
        gold: The true tags of each row, as `EntityMetric` takes them.
        predicted: The predicted ones.

    Returns:
        int64 (N, 3): entities that are right, that were predicted, and that are there.
    """
    counts = np.zeros((len(gold), 3), dtype=np.int64)
    for index, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        there, found = set(get_entities(true)), set(get_entities(guess))
        counts[index] = len(there & found), len(found), len(there)
    return counts
