"""Palettes against an exhaustive search, and against rounding in the type that is stored."""

import numpy as np
import pytest

from optimum_ane.compression.kmeans import palette, uniform_palette


def error_of(values, entries, indices):
    return float(((entries.astype(np.float64)[indices] - values.reshape(-1).astype(np.float64)) ** 2).sum())


def least_error(values, size):
    """The squared error of the best `size` intervals of the sorted values: every border is tried."""
    ordered = np.sort(values.reshape(-1).astype(np.float64))
    count = len(ordered)
    total, square = np.insert(np.cumsum(ordered), 0, 0), np.insert(np.cumsum(ordered**2), 0, 0)
    best = [0.0] + [np.inf] * count
    for _ in range(size):
        new = [0.0] + [np.inf] * count
        for stop in range(1, count + 1):
            starts = np.arange(stop)
            costs = square[stop] - square[starts] - (total[stop] - total[starts]) ** 2 / (stop - starts)
            new[stop] = float(np.min(np.array(best)[:stop] + costs))
        best = new
    return best[count]


@pytest.mark.parametrize("nbits", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", ["normal", "outliers", "two humps"])
def test_the_error_is_within_a_percent_of_the_least_possible(nbits, shape):
    random = np.random.default_rng(nbits)
    values = random.normal(size=600)
    if shape == "outliers":
        values[:5] *= 40
    elif shape == "two humps":
        values[:200] += 30
    values = values.astype(np.float32).reshape(20, 30)
    entries, indices = palette(values, nbits)
    assert entries.dtype == np.float32
    assert error_of(values, entries, indices) <= 1.01 * least_error(values, 2**nbits)


def test_more_values_than_bins_are_within_two_percent_of_coremltools_own_search():
    """6000 values in 64 clusters: coremltools has an exact search, and takes it from 10 000 values on."""
    from coremltools._deps import _kmeans1d

    values = np.random.default_rng(0).standard_t(4, size=6000).astype(np.float32)
    entries, indices = palette(values, 6)
    best = _kmeans1d.cluster(values.astype(np.float64), 64)
    least = ((np.array(best.centroids)[best.clusters] - values) ** 2).sum()
    assert error_of(values, entries, indices) <= 1.02 * least


def test_each_value_gets_the_entry_nearest_to_it_as_it_is_stored():
    values = (1000 + np.random.default_rng(1).normal(size=(16, 48))).astype(np.float16)
    entries, indices = palette(values, 4)
    assert entries.dtype == np.float16
    assert indices.dtype == np.uint8
    distances = np.abs(values.reshape(-1, 1).astype(float) - entries.astype(float)[None])
    np.testing.assert_array_equal(distances[np.arange(len(indices)), indices], distances.min(1))


def test_few_distinct_values_are_kept_as_they_are():
    values = np.array([[0.5, -1, 0.5], [3, -1, 3]], np.float16)
    entries, indices = palette(values, 4)
    assert entries.shape == (16,)
    np.testing.assert_array_equal(entries[indices].reshape(2, 3), values)


def test_the_same_values_give_the_same_palette():
    values = np.random.default_rng(2).normal(size=5000).astype(np.float16)
    first, second = palette(values, 8), palette(values.copy(), 8)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_uniform_palette_is_evenly_spaced():
    entries, indices = uniform_palette(np.array([0.0, 15.0, 7.4, 7.6], np.float32), 4)
    np.testing.assert_array_equal(entries, np.arange(16))
    np.testing.assert_array_equal(indices, [0, 15, 7, 8])
