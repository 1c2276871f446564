"""Arithmetic, comparison and choice, element by element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import builtin, op

_UNARY: dict[str, Callable[..., Tensor]] = {
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_UNARY_EXACT: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # halves to even, as numpy
}
_BINARY: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "pow": torch.pow,
    "sub": torch.sub,
}
_BINARY_EXACT: dict[str, Callable[..., Tensor]] = {
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "not_equal": torch.ne,
}

for _table, _parameters, _exact in (
    (_UNARY, ("x",), False),
    (_UNARY_EXACT, ("x",), True),
    (_BINARY, ("x", "y"), False),
    (_BINARY_EXACT, ("x", "y"), True),
):
    for _name, _function in _table.items():
        builtin(_name, _function, *_parameters, exact=_exact)


@op("sign", exact=True)
def sign(x: Tensor) -> Tensor:
    """Returns −1, 0 or 1; a NaN stays, unlike in torch."""
    return torch.where(x.isnan(), x, torch.sign(x)) if x.dtype.is_floating_point else torch.sign(x)


_FLOORED = partial(torch.div, rounding_mode="floor")


def _truncated(x: Tensor, y: Tensor) -> Tensor:
    """Divides integers towards zero. The least of them by −1 is a trap of the processor that torch walks into."""
    by_minus_one = y == -1
    return torch.where(by_minus_one, -x, torch.div(x, torch.where(by_minus_one, 1, y), rounding_mode="trunc"))


@op("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Divides; integers towards zero."""
    return torch.div(x, y) if x.dtype.is_floating_point else _integers(x, y, _truncated)


@op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """Divides and rounds down."""
    if x.dtype.is_floating_point:
        return torch.div(x, y, rounding_mode="floor")
    return _integers(x, y, _FLOORED)


@op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """Returns what remains of the division rounded down: it has the sign of the divisor, as in numpy."""
    return torch.remainder(x, y) if x.dtype.is_floating_point else _integers(x, y, torch.remainder)


def _integers(x: Tensor, y: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Divides integers; by zero gives 0, as in numpy and so in coremltools' value inference, where torch refuses."""
    by_zero = y == 0
    if not by_zero.any():
        return function(x, y)
    return function(x, torch.where(by_zero, torch.ones_like(y), y)).masked_fill_(by_zero, 0)


@op("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Returns 1 / (x + epsilon)."""
    return torch.reciprocal(x + epsilon)


@op("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Returns 1 / sqrt(x + epsilon). An epsilon below fp16's range is 0 in an fp16 program."""
    return torch.rsqrt(x + epsilon)


@op("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Returns ln(x + epsilon)."""
    return torch.log(x + epsilon)


@op("clip", exact=True)
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Bounds x below by alpha, then above by beta, in that order; a NaN stays."""
    return torch.clamp(x, alpha, beta)


@op("threshold", exact=True)
def threshold(x: Tensor, alpha: float) -> Tensor:
    """Bounds x below by alpha."""
    return torch.clamp(x, min=alpha)


@op("select", exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Takes a where cond holds and b elsewhere."""
    return torch.where(cond if cond.dtype == torch.bool else cond != 0, a, b)
