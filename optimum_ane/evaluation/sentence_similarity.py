"""Sentence embeddings, scored by how well their cosines follow people's similarity scores, as STS-B does.

The primary metric is Spearman's correlation, as in SentEval and MTEB: only the order of the cosines counts, for scores
go from 0 to 5 and cosines do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optimum_ane.errors import DatasetError, UnsupportedModelError
from optimum_ane.evaluation.bootstrap import score_of_labels
from optimum_ane.evaluation.columns import PAIR_NAMES, Wanted, check_different, find_column
from optimum_ane.evaluation.dataset_errors import checked_text, dataset_error, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature
from optimum_ane.evaluation.files import Table
from optimum_ane.evaluation.glue_metric import GlueMetric
from optimum_ane.evaluation.labels import AS_VALUES, finite_number
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.text_classification import encode_texts
from optimum_ane.tasks import POOLED, OutputField

SCORE_NAMES = ("score", "similarity_score", "similarity", "label", "labels", "relatedness_score", "gold_score")
"""Names that columns of similarity scores go by."""

_PRIMARY = "spearmanr"
_STSB = "stsb"
_HOW_TO_POOL = "sentence similarity needs one vector a text: export with --pooling mean (or cls)"


@dataclass(frozen=True)
class ScoredPairs(Examples):
    """Pairs of texts with people's scores.

    Attributes:
        texts: N texts.
        text_pairs: Their N partners.
        scores: float64 (N,), higher for more alike.
    """

    texts: list[str]
    text_pairs: list[str]
    scores: np.ndarray

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.texts)


class SentenceSimilarity(Evaluator[ScoredPairs, Feature, float]):
    """Scores an encoder that pools. Columns: a text, its partner, the score of their similarity.

    Both models answer with `pooler_output` (N, C).
    """

    task: ClassVar[str] = "feature-extraction"
    outputs: ClassVar[str] = "embeddings"
    if_missing: ClassVar[str] = _HOW_TO_POOL

    @property
    def fields(self) -> tuple[OutputField, ...]:
        """The embedding, which stands in for the hidden states where a package pools."""
        return POOLED

    @classmethod
    def check_pooling(cls, pooling: str | None) -> None:
        """Refuses a package that answers with hidden states.

        Raises:
            UnsupportedModelError: It does not pool.
        """
        if pooling is None:
            raise UnsupportedModelError(f"the package gives hidden states, which no dataset scores; {_HOW_TO_POOL}")

    def load(self, spec: DatasetSpec) -> ScoredPairs:
        """Loads pairs with scores, which may be any finite numbers."""
        spec.check_options(self.task, "text_column", "text_pair_column", "label_column")
        spec.check_config(_STSB)
        if spec.is_glue and spec.config != _STSB:
            what = f"GLUE's {quoted(spec.config)} has no similarity scores"
            raise dataset_error(spec.dataset, what, f"take --dataset-config {_STSB}")
        table = open_table(spec, header_of(spec, {*SCORE_NAMES, *(name for pair in PAIR_NAMES for name in pair)}))
        text, pair, label = _columns(spec, table)
        texts, pairs, scores = [], [], []
        for row, values in read_rows(table, (text, pair, label), spec.max_samples):
            texts.append(checked_text(values[0], table.name, row, text))
            pairs.append(checked_text(values[1], table.name, row, pair))
            score = finite_number(values[2])
            if score is None:
                what = f"{quoted(values[2])} is not a finite number, which a similarity is"
                remedy = "mend the row, or name another column with --label-column"
                raise dataset_error(table.name, what, remedy, row=row, column=label)
            scores.append(score)
        if spec.is_glue and scores[0] == scores[-1] == -1:
            what = "the rows have no score (-1), as in the test splits whose labels are secret"
            raise dataset_error(table.name, what, "take a labelled split, with --split validation")
        return ScoredPairs(table.name, _STSB, AS_VALUES, texts, pairs, np.asarray(scores, dtype=np.float64))

    def encode(
        self, tokenizer: Any, examples: ScoredPairs, rows: Sequence[int], sequence_length: int
    ) -> Encoded[Feature]:
        """Makes two features a row, one of each text; what is longer than the package loses its end."""
        first = encode_texts(tokenizer, [examples.texts[row] for row in rows], None, rows, sequence_length)
        second = encode_texts(tokenizer, [examples.text_pairs[row] for row in rows], None, rows, sequence_length)
        both = [feature for pair in zip(first.features, second.features, strict=True) for feature in pair]
        return Encoded(both, first.truncated | second.truncated)

    def answers(self, features: Sequence[Feature], outputs: Sequence[Outputs]) -> Iterable[float]:
        """Takes the cosine of each pair; batches hold whole pairs."""
        vectors = np.stack([output[POOLED[0].name] for output in outputs]).astype(np.float64)
        left, right = vectors[0::2], vectors[1::2]
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return np.divide((left * right).sum(axis=1), lengths, out=np.zeros(len(left)), where=lengths > 0).tolist()

    def score(self, examples: ScoredPairs, answers: Sequence[float]) -> Scores:
        """Measures Spearman's and Pearson's correlation."""
        if len(examples) < 2:
            raise DatasetError(f"{examples.name}: a correlation needs two rows or more, there is one")
        cosines = np.asarray(answers)
        metrics = GlueMetric(_STSB).compute(predictions=cosines, references=examples.scores)
        resampled = score_of_labels(_PRIMARY, cosines, examples.scores)
        return Scores({_PRIMARY: metrics[_PRIMARY], "pearson": metrics["pearson"]}, resampled, None, None)


def _columns(spec: DatasetSpec, table: Table) -> tuple[str, str, str]:
    known = {column.strip().lower() for column in table.columns} if table.headed else set()
    usual = [names for names in PAIR_NAMES if known.issuperset(names)]
    columns = (
        find_column(table, Wanted("text", "--text-column", spec.text_column, tuple(first for first, _ in usual))),
        find_column(
            table,
            Wanted("second text", "--text-pair-column", spec.text_pair_column, tuple(second for _, second in usual)),
        ),
        find_column(table, Wanted("score", "--label-column", spec.label_column, SCORE_NAMES)),
    )
    check_different(table, columns, "--text-column, --text-pair-column and --label-column")
    return columns
