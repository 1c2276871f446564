"""The numbers of the cost model that no chip states: fitted to published measurements, or taken from one.

They live in `data/cost_parameters.yaml`, which `scripts/calibrate_cost_model.py` writes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class CostParameters:
    """What the cost model is made of besides a chip's data.

    Attributes:
        convolution_share: Share of the fp16 peak that convolutions reach; fitted.
        einsum_share: The same for products of two activations head by head; fitted.
        linear_share: The same for linear layers and batched matrix products in (B, S, C); fitted.
        activation_bandwidth: How many times faster activations move than weights, which come from memory; fitted.
        host_gbs: Bytes that the CPU converts, works on and hands back, 10^9 per second; fitted.
        crossing_ms: What each change of device costs besides, milliseconds; fitted.
        spill_mb: Activations of one operation, 10^6 bytes, beyond which they travel to memory; measured by others.
        low: Factor from the typical estimate to the low one, from the fit's errors.
        high: Factor from the typical estimate to the high one.
    """

    convolution_share: float
    einsum_share: float
    linear_share: float
    activation_bandwidth: float
    host_gbs: float
    crossing_ms: float
    spill_mb: float
    low: float
    high: float


def read_parameters(document: Any) -> CostParameters:
    """Reads parameters.

    Args:
        document: A mapping of the attributes of `CostParameters` to numbers, and nothing else.

    Raises:
        ValueError: One is missing, unknown, or out of range; the message names it.
    """
    names = [field.name for field in fields(CostParameters)]
    if not isinstance(document, Mapping) or set(document) != set(names):
        odd = sorted(set(document) ^ set(names)) if isinstance(document, Mapping) else [str(document)]
        raise ValueError(f"parameters of the cost model: missing or unknown: {', '.join(map(str, odd))}")
    for name, value in document.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"parameters of the cost model: {name} is {value!r}, not a number above 0")
        if name.endswith("_share") and value > 1:
            raise ValueError(f"parameters of the cost model: {name} is {value}, a share above 1")
    if not document["low"] <= 1 <= document["high"]:
        raise ValueError("parameters of the cost model: low is at most 1 and high at least 1")
    return CostParameters(**{name: float(document[name]) for name in names})


@functools.cache
def cost_parameters() -> CostParameters:
    """Returns the parameters that come with this library."""
    text = files("optimum_ane.analysis").joinpath("data/cost_parameters.yaml").read_text(encoding="utf-8")
    return read_parameters(yaml.safe_load(text))
