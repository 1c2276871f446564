"""Detections are a set: the queries of one answer beside those of another, whatever their order.

A detector that picks its queries by a score (RT-DETR, Deformable DETR in two stages) takes the best of thousands.
Scores that nearly tie change places when they are rounded: another order of the same queries, or another last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

MOST_OTHERS = 0.1
"""Of the queries that may be others, where they stand in another order."""

_SAME = 0.01
"""A query that moved is the one at its new place where the squared difference to that one is so much smaller than to
the one at its own place."""


def match_queries(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> np.ndarray:
    """Finds for each query of an answer the one of another answer that it is.

    Args:
        reference: Fields of one image, (Q, C) each, finite.
        candidate: The same fields of the other answer, of the same shapes.

    Returns:
        int64 (Q,), the places in the candidate, so that the sum of squared differences is least, each field in parts
        of its largest value. In order where most queries that would move are not found at their new places either;
        and where the candidate has NaN or infinity, which nothing is close to.
    """
    count = len(reference[0])
    in_order = np.arange(count)
    if not all(np.isfinite(values).all() for values in candidate):
        return in_order
    distances = np.zeros((count, count))
    for expected, actual in zip(reference, candidate, strict=True):
        scale = float(np.abs(expected).max()) or 1.0
        theirs, ours = (values.astype(np.float64) / scale for values in (expected, actual))
        for column in range(expected.shape[1]):  # never (Q, Q, C) at once
            distances += (theirs[:, None, column] - ours[None, :, column]) ** 2
    _, places = linear_sum_assignment(distances)
    moved = places != in_order
    # Two wrong queries fit each other a little better crosswise as a rule, which is no other order.
    is_same = distances[in_order, places] < _SAME * distances[in_order, in_order]
    return places.astype(np.int64) if 2 * is_same[moved].sum() > moved.sum() else in_order


def closest_queries(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The queries of an image that two answers share, as pairs of places.

    Args:
        reference: As in `match_queries`.
        candidate: As in `match_queries`.

    Returns:
        int64 (K,) places in the reference, and (K,) those in the candidate: all, where the queries stand in one order;
        else but for the tenth that differs most, rounded up.
    """
    places = match_queries(reference, candidate)
    queries = np.arange(len(places))
    if (places == queries).all():
        return queries, places
    distances = np.zeros(len(places))
    for expected, actual in zip(reference, candidate, strict=True):
        scale = float(np.abs(expected).max()) or 1.0
        distances += (((expected - actual[places]).astype(np.float64) / scale) ** 2).sum(1)
    kept = np.sort(np.argsort(distances, kind="stable")[: len(places) - int(np.ceil(MOST_OTHERS * len(places)))])
    return kept, places[kept]
