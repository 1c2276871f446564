"""How metrics are written for people."""

from __future__ import annotations

import math

CORRELATIONS = ("pearson", "spearmanr", "matthews_correlation")
_PLAIN_NUMBERS = (*CORRELATIONS, "perplexity", "pseudo_perplexity", "mean_score_error", "largest_score_error")
ERROR_RATES = ("wer", "cer", "raw_wer", "raw_cer")
"""Metrics of which less is better."""
_SCORES = ("bleu", "chrf")
"""Fractions that people know as numbers up to 100."""
_PIXELS = ("mean_box_error", "largest_box_error")


def drop_unit(metric: str) -> str:
    """What a drop in this metric, times 100, is counted in."""
    if metric in _SCORES:
        return "points"
    return "hundredths" if metric in CORRELATIONS else "percentage points"


def drop_name(metric: str) -> str:
    """What it is called that a metric becomes worse."""
    return "increase" if metric in ERROR_RATES else "drop"


def drop_of(metric: str, original: float, package: float) -> float:
    """By how much a metric is worse, times 100; positive is worse."""
    return 100 * (package - original if metric in ERROR_RATES else original - package)


def show_metric(metric: str, value: float) -> str:
    """Writes a metric for people: rates as percentages, BLEU up to 100, lengths in pixels, others as they are."""
    if math.isnan(value):
        return "not defined"
    if metric in _PIXELS:
        return f"{value:.3f} px"
    if metric in _SCORES:
        return f"{100 * value:.2f}"
    return f"{value:.4f}" if metric in _PLAIN_NUMBERS else f"{value:.2%}"
