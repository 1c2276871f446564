"""Between element types, and the operation that does nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op
from optimum_ane.runtimes.portable.values import DType, by_name

_SHORT = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
_WRAPPED = {"uint16": 0xFFFF, "uint32": 0xFFFFFFFF}
_NARROW = ("int8", "uint8", "int16")


def named_type(name: str) -> DType:
    """Returns the element type that a parameter names: `fp32` and `float32` are the same.

    Raises:
        KeyError: There is none of the name.
    """
    return by_name(_SHORT.get(name, name))


@op("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """Converts: floats to integers towards zero, anything to bool as `x != 0`, to fp16 with rounding.

    What a narrow integer type cannot hold wraps. Of floats beyond int32, infinity and NaN nothing is said anywhere;
    numpy and torch give the least int32.
    """
    name = named_type(dtype).name
    if name == "bool":
        return x != 0
    if name in _WRAPPED:
        # Carried in a wider type, which would keep what the narrow one wraps.
        return x.to(torch.int64).bitwise_and(_WRAPPED[name]).to(by_name(name).carrier)
    if name in _NARROW and x.dtype.is_floating_point:
        # Of a float that the narrow type cannot hold, what torch gives differs from processor to processor.
        x = x.to(torch.int64)
    return x.to(by_name(name).carrier)


@op("identity", exact=True)
def identity(x: Tensor) -> Tensor:
    """Returns its argument."""
    return x
