"""What a model says of the tokens that follow, row by row, and how two models differ in it; float64, in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

BEST = 5
"""Among how many of the likeliest tokens one is looked for."""

_ROWS_AT_ONCE = 64
"""Rows that are held in float64: 25 MB for a vocabulary of 49,152."""


@dataclass(frozen=True)
class NextTokens:
    """How one model did on the T tokens that did follow.

    Attributes:
        log_probabilities: float64 (T,), of the token that followed, in nats.
        ranks: int64 (T,), how many tokens are likelier than it.
        best: int64 (T,), the ids of the likeliest tokens.
    """

    log_probabilities: np.ndarray
    ranks: np.ndarray
    best: np.ndarray


@dataclass(frozen=True)
class NextTokenDifferences:
    """How the distributions of a package differ from the original's, over T rows of logits.

    Attributes:
        divergences: float64 (T,), Kullback–Leibler divergence of the original from the package, Σ p (ln p − ln q) with
            p the original's probabilities and q the package's, in nats.
        is_same: bool (T,), whether the likeliest token is the same.
        is_among_best: bool (T,), whether the original's likeliest token is among the package's `BEST` likeliest.
        peaks: float64 (T,), the largest absolute logit of the original.
        errors: float64 (T,), the root of the mean square of the differences between the logits.
    """

    divergences: np.ndarray
    is_same: np.ndarray
    is_among_best: np.ndarray
    peaks: np.ndarray
    errors: np.ndarray

    def row_psnr(self) -> np.ndarray:
        """PSNR of the logits of each row against the row's own peak, in dB, (T,): see `validation.psnr`."""
        return _psnr(self.peaks, self.errors)

    def psnr(self) -> float:
        """PSNR of all logits, in dB."""
        return float(_psnr(self.peaks.max(keepdims=True), np.sqrt(np.square(self.errors).mean(keepdims=True)))[0])


def score_next_tokens(logits: Tensor, targets: np.ndarray) -> NextTokens:
    """Scores rows of logits.

    Args:
        logits: (T, V), finite.
        targets: int64 (T,), the tokens that followed, below V.
    """
    parts = []
    for rows, wanted in zip(logits.split(_ROWS_AT_ONCE), torch.from_numpy(targets).split(_ROWS_AT_ONCE), strict=True):
        own = rows.gather(-1, wanted[:, None])
        logs = rows.double().log_softmax(-1).gather(-1, wanted[:, None])
        parts.append(NextTokens(logs[:, 0].numpy(), _ranks(rows, wanted, own), rows.argmax(-1).numpy()))
    return join(parts)


def compare_next_tokens(original: Tensor, package: Tensor) -> NextTokenDifferences:
    """Compares rows of logits, (T, V) each and finite."""
    parts = []
    for theirs, ours in zip(original.split(_ROWS_AT_ONCE), package.split(_ROWS_AT_ONCE), strict=True):
        best = theirs.argmax(-1)
        rank = _ranks(ours, best, ours.gather(-1, best[:, None]))
        expected, actual = theirs.double(), ours.double()
        peaks, errors = expected.abs().amax(-1), (expected - actual).square_().mean(-1).sqrt_()
        log_p, log_q = expected.log_softmax(-1), actual.log_softmax(-1)
        divergences = (log_p.exp() * (log_p - log_q)).sum(-1)
        # By rank and not by argmax of both, so that of equal scores the first counts in both measures.
        parts.append(NextTokenDifferences(divergences.numpy(), rank == 0, rank < BEST, peaks.numpy(), errors.numpy()))
    return join(parts)


P = TypeVar("P", NextTokens, NextTokenDifferences)


def join(parts: Sequence[P]) -> P:
    """Puts the arrays of several parts one after the other."""
    made: P = type(parts[0])(
        *(np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(parts[0]))
    )
    return made


def perplexity(log_probabilities: np.ndarray) -> float:
    """The exponential of the mean negative log-probability; infinite for a model that rules out what followed."""
    with np.errstate(over="ignore"):
        return float(np.exp(-log_probabilities.mean()))


def quantile(values: np.ndarray, share: float) -> float:
    """The value that `share` of the values lie below, itself one of them: between infinite ones there is no mean."""
    if values.size == 0:
        return math.nan
    return float(np.quantile(values, share, method="lower"))


def _psnr(peaks: np.ndarray, errors: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, np.inf, 20 * (np.log10(peaks) - np.log10(errors)))


def _ranks(rows: Tensor, wanted: Tensor, own: Tensor) -> np.ndarray:
    """How many tokens are likelier, (T,). Of tokens with equal scores the first is the likeliest, as argmax has it."""
    before = torch.arange(rows.shape[-1]) < wanted[:, None]
    return ((rows > own) | ((rows == own) & before)).sum(-1).numpy()
