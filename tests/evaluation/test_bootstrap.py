import time

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from optimum_ane.evaluation.bootstrap import _SCORES, drop_interval, ratio, score_of_counts, score_of_labels


def interval(metric, original, package, labels, **options):
    scores = [score_of_labels(metric, predictions, labels) for predictions in (original, package)]
    return drop_interval(*scores, len(labels), **options)


def _binary(rows, flips_original, flips_package):
    labels = np.arange(rows) % 2
    original, package = labels.copy(), labels.copy()
    original[:flips_original] ^= 1
    package[:flips_package] ^= 1
    return original, package, labels


def test_vectorised_scores_are_scikit_learns():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 2, size=(2, 5, 40))
    for name, score in (("f1", f1_score), ("matthews_correlation", matthews_corrcoef)):
        expected = [score(truth, guess) for truth, guess in zip(labels, predictions, strict=True)]
        np.testing.assert_allclose(_SCORES[name](predictions, labels), expected)
    labels, predictions = random.integers(0, 4, size=(2, 5, 40))
    expected = [matthews_corrcoef(truth, guess) for truth, guess in zip(labels, predictions, strict=True)]
    np.testing.assert_allclose(_SCORES["matthews_correlation"](predictions, labels), expected)


def test_vectorised_scores_of_degenerate_resamples():
    zeros, ones = np.zeros((1, 4), dtype=np.int64), np.ones((1, 4), dtype=np.int64)
    assert _SCORES["f1"](zeros, zeros) == [0.0]
    assert _SCORES["matthews_correlation"](ones, ones) == [0.0]  # as scikit-learn says
    assert np.isnan(_SCORES["pearson"](zeros.astype(float), ones.astype(float)))


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_equal_predictions_have_no_spread(metric):
    original, _, labels = _binary(100, 20, 20)
    assert interval(metric, original, original, labels) == (0.0, 0.0)


def test_interval_of_a_share():
    """The drop is the mean of 0/1 draws: 1.96 standard errors about 0.10 are 0.10 ± 0.0263 for 500 rows."""
    low, high = interval("accuracy", *_binary(500, 0, 50))
    assert low == pytest.approx(0.10 - 0.0263, abs=0.005)
    assert high == pytest.approx(0.10 + 0.0263, abs=0.005)


def test_pairing_narrows_the_interval():
    original, package, labels = _binary(500, 100, 102)
    low, high = interval("accuracy", original, package, labels)
    assert 0 <= low <= 0.004 <= high <= 0.012  # unpaired it would be about ±0.05


def test_better_package_has_a_negative_drop():
    low, high = interval("f1", *_binary(400, 60, 20))
    assert low < high < 0


def test_correlations():
    random = np.random.default_rng(0)
    labels = random.normal(size=300)
    original, package = labels + 0.1 * random.normal(size=300), labels + random.normal(size=300)
    for metric in ("pearson", "spearmanr"):
        low, high = interval(metric, original, package, labels, resamples=1000)
        assert 0.15 < low < high < 0.45


def test_several_labels_count_rows():
    labels = np.zeros((100, 3), dtype=np.int64)
    package = labels.copy()
    package[:10, :] = 1
    low, high = interval("accuracy", labels, package, labels)
    assert 0.03 < low < 0.1 < high < 0.18


def test_undefined_everywhere():
    ones = np.ones(10)
    assert interval("pearson", ones, ones, ones) is None


def test_same_seed_same_interval():
    data = _binary(200, 10, 30)
    assert interval("accuracy", *data) == interval("accuracy", *data)
    assert interval("accuracy", *data) != interval("accuracy", *data, seed=1)


def test_blocks_do_not_change_what_is_drawn_on_average(monkeypatch):
    whole = interval("accuracy", *_binary(500, 0, 50))
    monkeypatch.setattr("optimum_ane.evaluation.bootstrap._ENTRIES_AT_ONCE", 700)
    blocks = interval("accuracy", *_binary(500, 0, 50))
    assert blocks == pytest.approx(whole, abs=0.004)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation", "pearson", "spearmanr"])
def test_is_fast_on_the_rows_of_sst2(metric):
    original, package, labels = _binary(872, 97, 100)
    began = time.perf_counter()
    interval(metric, original, package, labels)
    assert time.perf_counter() - began < 3


def test_scores_of_sums_over_rows():
    """F1 of counts by row is what a call with all the rows of a resample gives."""
    random = np.random.default_rng(0)
    there, found = random.integers(0, 6, size=(2, 50))
    counts = np.stack([np.minimum(there, found), found, there], axis=1)
    drawn = random.integers(0, 50, size=(7, 50))
    scores = score_of_counts(counts, lambda sums: ratio(2 * sums[0], sums[1] + sums[2], undefined=0.0))(drawn)
    for score, rows in zip(scores, drawn, strict=True):
        right, predicted, gold = np.sum([counts[row] for row in rows], axis=0)
        precision, recall = right / predicted, right / gold
        assert score == pytest.approx(2 * precision * recall / (precision + recall))
    assert np.isnan(score_of_counts(counts * 0, lambda sums: ratio(sums[0], sums[1], undefined=np.nan))(drawn)).all()


def test_interval_of_a_score_of_counts_is_that_of_the_same_score_of_labels():
    original, package, labels = _binary(300, 20, 50)
    counts = [
        score_of_counts((predictions == labels)[:, None], lambda sums: sums[0] / 300)
        for predictions in (original, package)
    ]
    assert drop_interval(*counts, 300) == pytest.approx(interval("accuracy", original, package, labels))
