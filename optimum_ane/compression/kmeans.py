"""Palettes by k-means in one dimension: the same weights give the same palette, on every machine and every time.

coremltools leaves groups of fewer than 10 000 weights to scikit-learn: one random start, and a coarse tolerance.
In one dimension clusters are intervals of the sorted values, and the best intervals are found by dynamic programming
(Wang and Song, "Ckmeans.1d.dp", 2011). Here that is done on the values gathered into a few bins to a cluster, and
Lloyd's algorithm then moves the borders on the values themselves.
"""

from __future__ import annotations

import numpy as np

_BINS_PER_ENTRY, _LEAST_BINS = 4, 256
_ROUNDS = 1000
"""Lloyd's algorithm stops by itself when no border moves; after the first step that takes a few rounds."""


def palette(values: np.ndarray, nbits: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds 2^nbits values that stand for given ones with a small squared error.

    Args:
        values: Of any shape, float16 or float32, finite.
        nbits: 1 to 8.

    Returns:
        The palette, ascending, of the type of `values`; where there are fewer distinct values than places, the last
        is repeated. And for each value, flat and in C order, the index of the entry nearest to it, uint8.
    """
    flat = values.reshape(-1)
    distinct, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    size = 2**nbits
    if len(distinct) <= size:
        entries = np.pad(distinct, (0, size - len(distinct)), mode="edge")
        return entries, inverse.reshape(-1).astype(np.uint8)
    exact = _cluster(distinct.astype(np.float64), counts.astype(np.float64), size)
    entries = exact.astype(values.dtype)
    # Rounded to the type that is stored, entries may have moved past a border, or onto each other.
    return entries, _nearest(distinct, entries)[inverse.reshape(-1)].astype(np.uint8)


def uniform_palette(values: np.ndarray, nbits: int) -> tuple[np.ndarray, np.ndarray]:
    """Spaces 2^nbits values evenly from the least to the largest; returns what `palette` returns."""
    flat = values.reshape(-1)
    entries = np.linspace(float(flat.min()), float(flat.max()), 2**nbits).astype(values.dtype)
    return entries, _nearest(flat, entries).astype(np.uint8)


def _cluster(distinct: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """The means of `size` clusters of ascending values with counts, float64."""
    weight = np.concatenate(([0.0], np.cumsum(counts)))
    moment = np.concatenate(([0.0], np.cumsum(counts * distinct)))
    square = np.concatenate(([0.0], np.cumsum(counts * distinct**2)))
    edges = _bins(distinct, counts, max(_LEAST_BINS, _BINS_PER_ENTRY * size))
    borders = edges[_best_intervals(weight[edges], moment[edges], square[edges], size)]
    for _ in range(_ROUNDS):
        entries = np.diff(moment[borders]) / np.diff(weight[borders])
        moved = borders.copy()
        moved[1:-1] = np.searchsorted(distinct, (entries[1:] + entries[:-1]) / 2)
        if np.array_equal(moved, borders):
            break
        borders = moved
    return entries


def _bins(distinct: np.ndarray, counts: np.ndarray, most: int) -> np.ndarray:
    """Edges of bins of neighbouring values, as positions: narrow where the best palette has its entries densely.

    That is where the density is high, to its cube root (Panter and Dite, 1951); a lonely value has a bin of its own.
    """
    if len(distinct) <= most:
        return np.arange(len(distinct) + 1)
    gaps = np.gradient(distinct)
    share = np.cumsum(np.cbrt(counts * gaps**2))
    inner = np.searchsorted(share, np.arange(1, most) / most * share[-1], side="right")
    return np.unique(np.concatenate(([0], inner, [len(distinct)])))


def _best_intervals(weight: np.ndarray, moment: np.ndarray, square: np.ndarray, size: int) -> np.ndarray:
    """Cuts bins into `size` intervals with the least squared error about their means.

    Args:
        weight: How many values lie before each edge of the bins.
        moment: Their sum.
        square: The sum of their squares.
        size: Number of intervals; there are at least as many bins.

    Returns:
        The edges at which the intervals begin, and the last edge: (size + 1,).
    """
    count = len(weight)
    inside = weight[None, :] - weight[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = square[None, :] - square[:, None] - (moment[None, :] - moment[:, None]) ** 2 / inside
    error[inside <= 0] = np.inf
    best = error[0]
    cuts = []
    for _ in range(size - 1):
        totals = best[:, None] + error
        cuts.append(totals.argmin(axis=0))
        best = totals[cuts[-1], np.arange(count)]
    edges = [count - 1]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    return np.array([0, *edges[::-1]])


def _nearest(values: np.ndarray, entries: np.ndarray) -> np.ndarray:
    wide = entries.astype(np.float64)
    return np.searchsorted((wide[1:] + wide[:-1]) / 2, values.astype(np.float64))
