"""PSNR of more numbers than are held at once."""

from __future__ import annotations

import math

import numpy as np


class RunningPSNR:
    """Sums up `validation.psnr.psnr` batch by batch, in float64.

    Attributes:
        count: How many numbers were compared.
    """

    def __init__(self) -> None:
        self.count = 0
        self._peak = 0.0
        self._squares = 0.0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Takes a batch: two finite float32 arrays of the same shape, which may be empty."""
        if reference.size == 0:
            return
        expected, actual = reference.astype(np.float64), candidate.astype(np.float64)
        self.count += expected.size
        self._peak = max(self._peak, float(np.abs(expected).max()))
        self._squares += float(np.square(expected - actual).sum())

    def ratio(self) -> float:
        """20·log10(max|reference| / RMSE) in dB; `inf` for equal numbers, `-inf` for a reference of zeros.

        Raises:
            ValueError: Nothing was compared.
        """
        if self.count == 0:
            raise ValueError("PSNR of nothing is not defined")
        if self._squares == 0:
            return math.inf
        if self._peak == 0:
            return -math.inf
        return 20 * math.log10(self._peak) - 10 * math.log10(self._squares / self.count)
