"""How sure a measured drop is: a paired bootstrap over the rows of a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95

_ENTRIES_AT_ONCE = 2_000_000
"""Rows times resamples that are held at once: 16 MB for each array of indices, labels and predictions."""

ResampledScore = Callable[[np.ndarray], np.ndarray]
"""The score of one model on resamples: int64 (R, N) numbers of rows to float64 (R,), NaN where it is not defined."""


def drop_interval(
    original: ResampledScore,
    package: ResampledScore,
    rows: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the drop, the original's score minus the package's.

    Rows are drawn with replacement, the same rows for both models, for their mistakes are mostly the same ones: the
    interval is then that of the difference, far narrower than those of the two scores. Scores are vectorised because
    one call of scikit-learn a resample takes a second or more, and `scipy.stats.bootstrap` as long.

    Args:
        original: The original's score; see `score_of_labels` and `score_of_counts`.
        package: The package's score, of the same rows.
        rows: How many rows there are.
        resamples: How many times as many rows are drawn.
        confidence: Share of the resamples that lie inside the interval.
        seed: Of the random numbers: the same data gives the same interval.

    Returns:
        Lower and upper end in the unit of the score, or None where the drop is undefined on every resample.
    """
    return score_interval(
        lambda drawn: original(drawn) - package(drawn), rows, resamples=resamples, confidence=confidence, seed=seed
    )


def score_interval(
    score: ResampledScore,
    rows: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a score.

    Args:
        score: The score.
        rows: How many rows there are.
        resamples: How many times as many rows are drawn.
        confidence: Share of the resamples that lie inside the interval.
        seed: Of the random numbers: the same data gives the same interval.

    Returns:
        Lower and upper end in the unit of the score, or None where it is undefined on every resample.
    """
    at_once = max(1, _ENTRIES_AT_ONCE // rows)
    random = np.random.default_rng(seed)
    scores: list[np.ndarray] = []
    for done in range(0, resamples, at_once):
        drawn = random.integers(0, rows, size=(min(at_once, resamples - done), rows))
        scores.append(score(drawn))
    defined = np.concatenate(scores)
    defined = defined[np.isfinite(defined)]
    if defined.size == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)


def score_of_labels(metric: str, predictions: np.ndarray, labels: np.ndarray) -> ResampledScore:
    """A metric of one prediction and one label a row.

    Args:
        metric: One of "accuracy", "f1", "matthews_correlation", "pearson", "spearmanr".
        predictions: (N,), or (N, L) of 0 and 1 for accuracy over several labels a row.
        labels: The true ones, in the same form.
    """
    if labels.ndim == 2:
        # A row is right when all its labels are; what follows then sees one column, of which every 1 is right.
        predictions, labels = (predictions == labels).all(axis=1), np.ones(len(labels), dtype=bool)
    score = _SCORES[metric]
    return lambda drawn: score(predictions[drawn], labels[drawn])


def score_of_counts(counts: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> ResampledScore:
    """A metric that depends on the rows only through sums over them.

    Args:
        counts: (N, K), K numbers for each row, such as entities found, entities there and both at once.
        score: Takes the sums over rows, (K, R), to the metric, (R,).
    """
    columns = counts.T.astype(np.float64)
    return lambda drawn: score(np.stack([column[drawn].sum(axis=1) for column in columns]))


def ratio(above: np.ndarray, below: np.ndarray, undefined: float) -> np.ndarray:
    """`above / below`, both (R,), and `undefined` where `below` is 0."""
    return np.divide(above, below, out=np.full(below.shape, undefined), where=below > 0)


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (predictions == labels).mean(axis=-1)


def _f1(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = ((predictions == 1) & (labels == 1)).sum(axis=-1)
    marked = (predictions == 1).sum(axis=-1) + (labels == 1).sum(axis=-1)
    return ratio(2.0 * found, marked, undefined=0.0)


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Gorodkin's form for any number of classes (doi:10.1016/j.compbiolchem.2004.09.006), as scikit-learn has it."""
    rows = float(labels.shape[-1])
    right = (predictions == labels).sum(axis=-1)
    classes = np.union1d(np.unique(predictions), np.unique(labels))
    predicted = np.stack([(predictions == c).sum(axis=-1) for c in classes]).astype(np.float64)
    actual = np.stack([(labels == c).sum(axis=-1) for c in classes]).astype(np.float64)
    shared = right * rows - (predicted * actual).sum(axis=0)
    spread = (rows**2 - (predicted**2).sum(axis=0)) * (rows**2 - (actual**2).sum(axis=0))
    return ratio(shared, np.sqrt(spread), undefined=0.0)


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    left = predictions - predictions.mean(axis=-1, keepdims=True)
    right = labels - labels.mean(axis=-1, keepdims=True)
    spread = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    return ratio((left * right).sum(axis=-1), spread, undefined=np.nan)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    # Takes most of a second to import, and most evaluations need none of it.
    from scipy.stats import rankdata

    return _pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
