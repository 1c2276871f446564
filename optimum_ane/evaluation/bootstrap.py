"""How sure a measured drop is: a paired bootstrap over the rows of a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000
CONFIDENCE = 0.95

_ENTRIES_AT_ONCE = 2_000_000
"""Rows times resamples that are held at once: 16 MB for each array of indices, labels and predictions."""


def drop_interval(
    metric: str,
    original: np.ndarray,
    package: np.ndarray,
    labels: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the drop `metric(original) − metric(package)`, as fractions.

    Rows are drawn with replacement, the same rows for both models, for their mistakes are mostly the same ones: the
    interval is then that of the difference, far narrower than those of the two scores. It is vectorised here because
    one call of scikit-learn a resample takes a second or more, and `scipy.stats.bootstrap` as long.

    Args:
        metric: One of "accuracy", "f1", "matthews_correlation", "pearson", "spearmanr".
        original: Predictions of the original, (N,), or (N, L) of 0 and 1 for accuracy over several labels a row.
        package: Predictions of the package, in the same form.
        labels: The true ones, in the same form.
        resamples: How many times the rows are drawn.
        confidence: Share of the resamples that lie inside the interval.
        seed: Of the random numbers: the same data gives the same interval.

    Returns:
        Lower and upper end, or None where the metric is undefined on every resample.
    """
    if labels.ndim == 2:
        # A row is right when all its labels are; what follows then sees one column, of which every 1 is right.
        original, package = (original == labels).all(axis=1), (package == labels).all(axis=1)
        labels = np.ones(len(labels), dtype=bool)
    score = _SCORES[metric]
    rows = len(labels)
    at_once = max(1, _ENTRIES_AT_ONCE // rows)
    random = np.random.default_rng(seed)
    drops: list[np.ndarray] = []
    for done in range(0, resamples, at_once):
        drawn = random.integers(0, rows, size=(min(at_once, resamples - done), rows))
        truth = labels[drawn]
        drops.append(score(original[drawn], truth) - score(package[drawn], truth))
    defined = np.concatenate(drops)
    defined = defined[np.isfinite(defined)]
    if defined.size == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (predictions == labels).mean(axis=-1)


def _f1(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = ((predictions == 1) & (labels == 1)).sum(axis=-1)
    marked = (predictions == 1).sum(axis=-1) + (labels == 1).sum(axis=-1)
    return _ratio(2.0 * found, marked, undefined=0.0)


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Gorodkin's form for any number of classes (doi:10.1016/j.compbiolchem.2004.09.006), as scikit-learn has it."""
    rows = float(labels.shape[-1])
    right = (predictions == labels).sum(axis=-1)
    classes = np.union1d(np.unique(predictions), np.unique(labels))
    predicted = np.stack([(predictions == c).sum(axis=-1) for c in classes]).astype(np.float64)
    actual = np.stack([(labels == c).sum(axis=-1) for c in classes]).astype(np.float64)
    shared = right * rows - (predicted * actual).sum(axis=0)
    spread = (rows**2 - (predicted**2).sum(axis=0)) * (rows**2 - (actual**2).sum(axis=0))
    return _ratio(shared, np.sqrt(spread), undefined=0.0)


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    left = predictions - predictions.mean(axis=-1, keepdims=True)
    right = labels - labels.mean(axis=-1, keepdims=True)
    spread = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    return _ratio((left * right).sum(axis=-1), spread, undefined=np.nan)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return _pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))


def _ratio(above: np.ndarray, below: np.ndarray, undefined: float) -> np.ndarray:
    return np.divide(above, below, out=np.full(below.shape, undefined), where=below > 0)


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
