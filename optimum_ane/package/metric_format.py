"""How metrics are written for people."""

from __future__ import annotations

import math

CORRELATIONS = ("pearson", "spearmanr", "matthews_correlation")
_PLAIN_NUMBERS = (*CORRELATIONS, "perplexity", "pseudo_perplexity", "mean_score_error", "largest_score_error")
_PIXELS = ("mean_box_error", "largest_box_error")


def drop_unit(metric: str) -> str:
    """What a drop in this metric, times 100, is counted in."""
    return "hundredths" if metric in CORRELATIONS else "percentage points"


def show_metric(metric: str, value: float) -> str:
    """Writes a metric for people: rates as percentages, lengths in pixels, other numbers as they are."""
    if math.isnan(value):
        return "not defined"
    if metric in _PIXELS:
        return f"{value:.3f} px"
    return f"{value:.4f}" if metric in _PLAIN_NUMBERS else f"{value:.2%}"
