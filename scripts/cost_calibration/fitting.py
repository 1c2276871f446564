"""Fits the cost model's parameters to published latencies, and says how far off it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import differential_evolution, minimize

from cost_calibration.published_latencies import PublishedLatencies, PublishedLatency, Series
from optimum_ane.analysis.cost_parameters import CostParameters

BOUNDS = {
    "convolution_share": (0.05, 1.0),
    "einsum_share": (0.01, 1.0),
    "linear_share": (0.01, 1.0),
    "activation_bandwidth": (0.5, 50.0),
    "host_gbs": (0.1, 50.0),
    "crossing_ms": (0.02, 2.0),
}
"""What is fitted, and between which bounds."""

SPILL_MB = 32.0
"""maderix/ANE on M4: throughput falls by a third when an operation's data exceed about 32 MB. Not fitted."""

QUANTILES = (0.1, 0.9)
"""Of published over predicted, families left out: the range of an estimate."""

_START = CostParameters(0.7, 0.1, 0.3, 4.0, 2.0, 0.2, SPILL_MB, 1.0, 1.0)
_SEED = 0


@dataclass(frozen=True)
class Fit:
    """A fit.

    Attributes:
        parameters: The result, with its range.
        left_out: By row, what a fit without the row's family predicts for it, milliseconds.
    """

    parameters: CostParameters
    left_out: dict[str, float]


def fit(latencies: PublishedLatencies) -> Fit:
    """Fits all parameters, then again without each family in turn."""
    rows, series = latencies.used, [each for each in latencies.series if not each.held_out]
    parameters = _search(rows, series)
    left_out = {}
    for family in dict.fromkeys(row.family for row in rows):
        others = [row for row in rows if row.family != family]
        without = _refine(parameters, others, [each for each in series if each.family != family])
        left_out |= {row.id: row.predict(without) for row in rows if row.family == family}
    ratios = [row.published / left_out[row.id] for row in rows]
    low, high = np.quantile(ratios, QUANTILES)
    return Fit(replace(parameters, low=_rounded(min(low, 1.0)), high=_rounded(max(high, 1.0))), left_out)


def loss(parameters: CostParameters, rows: Sequence[PublishedLatency], series: Sequence[Series]) -> float:
    """Mean absolute error of the logarithm; each family counts once, however many rows it has, and so each series."""
    families: dict[str, list[float]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(abs(math.log(row.predict(parameters) / row.published)))
    for each in series:
        predicted = each.predict(parameters)
        families[each.id] = [
            abs(math.log(predicted[name] / ratio)) for name, ratio in each.published.items() if ratio != 1
        ]
    return sum(sum(errors) / len(errors) for errors in families.values()) / len(families)


def _search(rows: Sequence[PublishedLatency], series: Sequence[Series]) -> CostParameters:
    bounds = [tuple(map(math.log, BOUNDS[name])) for name in BOUNDS]
    found = differential_evolution(
        lambda x: loss(_parameters(x), rows, series), bounds, seed=_SEED, maxiter=30, popsize=6, polish=False
    )
    return _refine(_parameters(found.x), rows, series)


def _refine(start: CostParameters, rows: Sequence[PublishedLatency], series: Sequence[Series]) -> CostParameters:
    bounds = [tuple(map(math.log, BOUNDS[name])) for name in BOUNDS]
    x = [math.log(getattr(start, name)) for name in BOUNDS]
    for _ in range(3):  # Nelder-Mead stops early on a loss with kinks; restarted, it goes on
        x = minimize(
            lambda x: loss(_parameters(x), rows, series),
            x,
            method="Nelder-Mead",
            bounds=bounds,
            options={"maxfev": 250, "xatol": 1e-3, "fatol": 1e-5},
        ).x
    return _parameters(x)


def _parameters(logarithms: Sequence[float]) -> CostParameters:
    values = {name: _rounded(math.exp(x)) for name, x in zip(BOUNDS, logarithms, strict=True)}
    return replace(_START, **values)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def median_error(predicted: Sequence[float], published: Sequence[float]) -> float:
    """The median of |predicted / published - 1|."""
    return float(np.median([abs(a / b - 1) for a, b in zip(predicted, published, strict=True)]))
