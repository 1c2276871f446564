import math

import numpy as np
import pytest

from optimum_ane.validation.psnr import psnr


def test_by_hand():
    # RMSE = sqrt((0.3² + 0.4²) / 2) = 0.353553…, peak 4: 20·log10(4 / 0.353553…) = 21.0721 dB
    assert psnr([3.0, -4.0], [3.3, -4.4]) == pytest.approx(21.0721, abs=1e-4)


def test_error_of_a_thousandth_of_the_peak_is_60_db():
    reference = np.array([[1.0, -10.0], [5.0, 2.0]])
    assert psnr(reference, reference + 0.01) == pytest.approx(60.0)


def test_does_not_depend_on_scale():
    reference = np.random.default_rng(0).normal(size=(7, 3))
    candidate = reference + 1e-3
    expected = psnr(reference, candidate)
    assert psnr(reference * 1e-170, candidate * 1e-170) == pytest.approx(expected)
    assert psnr(reference * 1e170, candidate * 1e170) == pytest.approx(expected)


def test_edges():
    assert psnr([1.0, 2.0], [1.0, 2.0]) == math.inf
    assert psnr([0.0, 0.0], [0.0, 0.0]) == math.inf
    assert psnr([0.0, 0.0], [0.0, 0.1]) == -math.inf
    assert psnr([1.0, 2.0], [1.0, math.nan]) == -math.inf
    assert psnr([1.0, 2.0], [1.0, math.inf]) == -math.inf


def test_half_precision_is_measured_in_double():
    reference = np.full(4096, 1000.0, dtype=np.float16)
    assert psnr(reference, reference + np.float16(1)) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("reference", "candidate"), [([1.0, 2.0], [1.0]), ([], []), ([math.nan], [1.0]), ([math.inf], [math.inf])]
)
def test_undefined(reference, candidate):
    with pytest.raises(ValueError, match=r"shapes differ|not defined"):
        psnr(reference, candidate)
