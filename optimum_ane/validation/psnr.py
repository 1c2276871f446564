"""Peak signal-to-noise ratio, the measure of how closely one array of numbers follows another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def psnr(reference: ArrayLike, candidate: ArrayLike) -> float:
    """How closely `candidate` follows `reference`, in dB: 20·log10(max|reference| / RMSE); higher is closer.

    ml-ane-transformers defines it so, with 1e-5 added to the peak and 1e-10 to the RMSE; without these the measure
    does not change when both arrays are scaled, and does not stop at a ceiling. 60 dB is an error of one thousandth
    of the peak. fp16 holds 11 bits, so a whole network in it lands near 60 to 80 dB.

    Args:
        reference: Array of any shape, finite.
        candidate: Array of the same shape.

    Returns:
        The ratio in dB; `inf` for equal arrays; `-inf` where the candidate has NaN or infinity, or where the
        reference is all zero and the candidate is not.

    Raises:
        ValueError: The shapes differ, the arrays are empty, or the reference is not finite.
    """
    expected = np.asarray(reference, dtype=np.float64)
    actual = np.asarray(candidate, dtype=np.float64)
    if expected.shape != actual.shape:
        raise ValueError(f"shapes differ: reference {expected.shape}, candidate {actual.shape}")
    if expected.size == 0:
        raise ValueError("PSNR of empty arrays is not defined")
    if not np.isfinite(expected).all():
        raise ValueError("the reference has NaN or infinity: PSNR is not defined")
    if not np.isfinite(actual).all():
        return -math.inf
    peak = float(np.abs(expected).max())
    # Scaled by the largest difference, so that neither squares of 1e-200 vanish nor squares of 1e200 overflow.
    difference = np.abs(expected - actual)
    largest = float(difference.max())
    if largest == 0.0:
        return math.inf
    if peak == 0.0 or not math.isfinite(largest):
        return -math.inf
    rmse = largest * float(np.sqrt(np.mean((difference / largest) ** 2)))
    return 20.0 * (math.log10(peak) - math.log10(rmse))
