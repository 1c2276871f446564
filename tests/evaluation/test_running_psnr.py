import math

import numpy as np
import pytest

from optimum_ane.evaluation.running_psnr import RunningPSNR
from optimum_ane.validation.psnr import psnr


def running(*batches):
    ratio = RunningPSNR()
    for expected, actual in batches:
        ratio.add(np.asarray(expected, np.float32), np.asarray(actual, np.float32))
    return ratio.ratio()


def test_batches_of_any_size_give_the_psnr_of_the_whole():
    random = np.random.default_rng(0)
    expected = random.normal(size=(100, 7)).astype(np.float32) * 50
    actual = (expected + 0.01 * random.normal(size=(100, 7))).astype(np.float32)
    parts = [(expected[start:stop], actual[start:stop]) for start, stop in ((0, 1), (1, 64), (64, 64), (64, 100))]
    assert running(*parts) == pytest.approx(psnr(expected, actual), abs=1e-9)


def test_large_numbers_of_float32_do_not_overflow():
    expected, actual = np.full(4, 3e38, np.float32), np.full(4, 1e38, np.float32)
    assert running((expected, actual)) == pytest.approx(psnr(expected, actual), abs=1e-9)


def test_edges():
    assert running(([1.0, 2.0], [1.0, 2.0])) == math.inf
    assert running(([0.0], [0.0])) == math.inf
    assert running(([0.0], [0.1])) == -math.inf
    with pytest.raises(ValueError, match="PSNR of nothing"):
        running(([], []))
