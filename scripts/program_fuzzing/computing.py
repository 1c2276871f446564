"""Moves that compute: arithmetic, activations, comparison, reductions, order, norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder
from scipy import special

from program_fuzzing.maker import Maker, move


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


UNARY: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    # name: (largest operand, meaning)
    "abs": (np.inf, np.abs),
    "atan": (np.inf, np.arctan),
    "cos": (8, np.cos),
    "erf": (np.inf, special.erf),
    "exp": (3, np.exp),
    "exp2": (4, np.exp2),
    "identity": (np.inf, lambda x: x),
    "relu": (np.inf, lambda x: np.maximum(x, 0)),
    "relu6": (np.inf, lambda x: np.clip(x, 0, 6)),
    "sigmoid": (np.inf, special.expit),
    "silu": (np.inf, lambda x: x * special.expit(x)),
    "sin": (8, np.sin),
    "sinh": (3, np.sinh),
    "softplus": (np.inf, lambda x: np.logaddexp(0, x)),
    "softsign": (np.inf, lambda x: x / (1 + np.abs(x))),
    "square": (5, np.square),
    "tanh": (np.inf, np.tanh),
}


@move
def unary(m: Maker) -> bool:
    name = m.choice(list(UNARY))
    bound, meaning = UNARY[name]
    x = m.pick("f", lambda a: np.abs(a).max() <= bound)
    return x is not None and m.add(name, lambda a: getattr(Builder, name)(x=a), meaning, x)


@move
def positive_unary(m: Maker) -> bool:
    """Roots and logarithms of |x| + an epsilon, far from where they are steep."""
    x, epsilon = m.pick("f"), m.scalar(0.5)
    if x is None:
        return False
    name = m.choice(["sqrt", "rsqrt", "log", "inverse"])
    size = m.add_index("abs", lambda a: Builder.abs(x=a), np.abs, x)
    if name == "sqrt":
        lifted = m.add_index("add", lambda a: Builder.add(x=a, y=epsilon), lambda a: a + float(epsilon), size)
        return m.add("sqrt", lambda a: Builder.sqrt(x=a), np.sqrt, lifted)
    meaning = {"rsqrt": lambda a: 1 / np.sqrt(a), "log": np.log, "inverse": lambda a: 1 / a}[name]
    return m.add(
        name, lambda a: getattr(Builder, name)(x=a, epsilon=epsilon), lambda a: meaning(a + float(epsilon)), size
    )


@move
def parametric(m: Maker) -> bool:
    x, s, t = m.pick("f"), m.scalar(0.3), m.scalar(1.75)
    if x is None:
        return False
    a, b = float(s), float(t)
    cases: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = {
        "clip": ({"alpha": -s, "beta": t}, lambda x: np.clip(x, -a, b)),
        "elu": ({"alpha": s}, lambda x: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)),
        "leaky_relu": ({"alpha": s}, lambda x: np.where(x < 0, a * x, x)),
        "linear_activation": ({"alpha": s, "beta": t}, lambda x: a * x + b),
        "scaled_tanh": ({"alpha": s, "beta": t}, lambda x: a * np.tanh(b * x)),
        "sigmoid_hard": ({"alpha": s, "beta": t}, lambda x: np.clip(a * x + b, 0, 1)),
        "threshold": ({"alpha": s}, lambda x: np.maximum(x, a)),
        "clamped_relu": ({"alpha": s, "beta": t}, lambda x: np.minimum(np.where(x < 0, a * x, x), b)),
    }
    name = m.choice(list(cases))
    options, meaning = cases[name]
    return m.add(name, lambda v: getattr(Builder, name)(x=v, **options), meaning, x)


@move
def gelu(m: Maker) -> bool:
    x = m.pick("f")
    mode = m.choice(["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
    meaning = {
        "EXACT": lambda x: x * special.ndtr(x),
        "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "SIGMOID_APPROXIMATION": lambda x: x * special.expit(1.702 * x),
    }[mode]
    return x is not None and m.add(f"gelu {mode}", lambda a: Builder.gelu(x=a, mode=mode), meaning, x)


BINARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


@move
def binary(m: Maker) -> bool:
    x = m.pick("fi")
    if x is None:
        return False
    name, kind, shape = m.choice(list(BINARY)), m.kind(x), m.shape(x)
    y = m.pick(kind, lambda a: m.broadcasts(a.shape, shape))
    if y is not None and m.chance(0.6):
        return m.add(name, lambda a, b: getattr(Builder, name)(x=a, y=b), BINARY[name], x, y)
    constant = m.constant(m.broadcastable(shape), kind)
    wide = constant.astype(np.int64 if kind == "i" else np.float64)
    if m.chance(0.5):
        return m.add(name, lambda a: getattr(Builder, name)(x=a, y=constant), lambda a: BINARY[name](a, wide), x)
    return m.add(name, lambda a: getattr(Builder, name)(x=constant, y=a), lambda a: BINARY[name](wide, a), x)


@move
def division(m: Maker) -> bool:
    x = m.pick("fi")
    if x is None:
        return False
    kind = m.kind(x)
    divisor = m.constant(m.broadcastable(m.shape(x)), kind)
    divisor = np.where(divisor < 0, divisor - 1, divisor + 1).astype(divisor.dtype)
    wide = divisor.astype(np.int64 if kind == "i" else np.float64)
    name = m.choice(["real_div", "floor_div", "mod"])
    whole = {"real_div": lambda a: np.trunc(a / wide).astype(np.int64), "floor_div": lambda a: a // wide}
    real = {"real_div": lambda a: a / wide, "floor_div": lambda a: np.floor(a / wide)}
    meaning = np.mod if name == "mod" else None
    if kind == "f" and name != "real_div" and not m.far_from_steps(x, lambda a: a / wide):
        return False
    function = (lambda a: meaning(a, wide)) if meaning else (whole if kind == "i" else real)[name]
    return m.add(name, lambda a: getattr(Builder, name)(x=a, y=divisor), function, x)


@move
def step(m: Maker) -> bool:
    name = m.choice(["floor", "ceil", "round", "cast"])
    x = m.pick("f")
    if x is None or not m.far_from_steps(x, lambda a: a + 0.5 if name == "round" else a):
        return False
    if name == "cast":
        return m.add("cast", lambda a: Builder.cast(x=a, dtype="int32"), lambda a: np.trunc(a).astype(np.int64), x)
    return m.add(name, lambda a: getattr(Builder, name)(x=a), getattr(np, name), x)


@move
def comparison(m: Maker) -> bool:
    name = m.choice(["greater", "greater_equal", "less", "less_equal", "equal", "not_equal"])
    x = m.pick("fi")
    bound = m.scalar(0.25)
    if x is None or (m.kind(x) == "f" and not m.far_from(x, float(bound))):
        return False
    limit: Any = bound if m.kind(x) == "f" else np.int32(1)
    exact = float(bound) if m.kind(x) == "f" else 1
    return m.add(name, lambda a: getattr(Builder, name)(x=a, y=limit), lambda a: getattr(np, name)(a, exact), x)


@move
def logic(m: Maker) -> bool:
    name = m.choice(["logical_and", "logical_or", "logical_xor", "logical_not"])
    x = m.pick("b")
    if x is None:
        return False
    if name == "logical_not":
        return m.add(name, lambda a: Builder.logical_not(x=a), np.logical_not, x)
    shape = m.shape(x)
    y = m.pick("b", lambda a: m.broadcasts(a.shape, shape))
    return m.add(name, lambda a, b: getattr(Builder, name)(x=a, y=b), getattr(np, name), x, y)


@move
def select(m: Maker) -> bool:
    c = m.pick("b")
    if c is None:
        return False
    shape = m.shape(c)
    x = m.pick("fi", lambda a: a.shape == shape)
    if x is None:
        return False
    kind = m.kind(x)
    y = m.pick(kind, lambda a: a.shape == shape)
    return m.add("select", lambda c, a, b: Builder.select(cond=c, a=a, b=b), np.where, c, x, y)


@move
def from_flags(m: Maker) -> bool:
    x = m.pick("bi")
    if x is None:
        return False
    dtype, wide = (m.name, np.float64) if m.kind(x) == "i" or m.chance(0.5) else ("int32", np.int64)
    return m.add(f"cast {dtype}", lambda a: Builder.cast(x=a, dtype=dtype), lambda a: a.astype(wide), x)


REDUCTIONS: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "reduce_sum": ("fi", np.sum),
    "reduce_mean": ("f", np.mean),
    "reduce_max": ("fi", np.max),
    "reduce_min": ("fi", np.min),
    "reduce_l1_norm": ("f", lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims)),
    "reduce_l2_norm": ("f", lambda x, axis, keepdims: np.sqrt((x**2).sum(axis=axis, keepdims=keepdims))),
    "reduce_sum_square": ("f", lambda x, axis, keepdims: (x**2).sum(axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": ("f", lambda x, axis, keepdims: special.logsumexp(x, axis=axis, keepdims=keepdims)),
}


@move
def reduction(m: Maker) -> bool:
    name = m.choice(list(REDUCTIONS))
    kinds, meaning = REDUCTIONS[name]
    x = m.pick(kinds, lambda a: a.ndim >= 1)
    if x is None:
        return False
    rank = len(m.shape(x))
    axes = m.axes(rank)
    keep = m.chance(0.5)
    chosen = None if m.chance(0.15) else axes
    where = tuple(range(rank)) if chosen is None else tuple(a % rank for a in chosen)
    options = {"keep_dims": keep} if chosen is None else {"axes": chosen, "keep_dims": keep}
    return m.add(
        f"{name} {options}",
        lambda a: getattr(Builder, name)(x=a, **options),
        lambda a: np.asarray(meaning(a, axis=where, keepdims=keep)),
        x,
    )


@move
def argument(m: Maker) -> bool:
    name, keep = m.choice(["reduce_argmax", "reduce_argmin"]), m.chance(0.5)
    x = m.pick("f", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axis = m.axis(len(m.shape(x)))
    if not m.sorted_apart(x, axis):
        return False
    function = np.argmax if name == "reduce_argmax" else np.argmin
    return m.add(
        f"{name} {axis}",
        lambda a: getattr(Builder, name)(x=a, axis=axis, keep_dims=keep),
        lambda a: np.asarray(function(a, axis=axis, keepdims=keep)),
        x,
    )


@move
def order(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axis, ascending = m.axis(len(m.shape(x))), m.chance(0.5)
    if not m.sorted_apart(x, axis):
        return False
    count = m.integer(1, m.shape(x)[axis] + 1)
    sign = 1 if ascending else -1
    if m.chance(0.3):
        return m.add(
            "argsort",
            lambda a: Builder.argsort(x=a, axis=axis, ascending=ascending),
            lambda a: np.argsort(sign * a, axis=axis),
            x,
        )
    return m.add(
        f"topk {count} {axis} {ascending}",
        lambda a: Builder.topk(x=a, k=count, axis=axis, ascending=ascending)[0],
        lambda a: np.take(sign * np.sort(sign * a, axis=axis), range(count), axis=axis),
        x,
    )


@move
def cumulative(m: Maker) -> bool:
    x = m.pick("fi", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axis, exclusive, backward = m.integer(0, len(m.shape(x))), m.chance(0.5), m.chance(0.5)

    def meaning(a: np.ndarray) -> np.ndarray:
        a = np.flip(a, axis) if backward else a
        total = np.cumsum(a, axis)
        total = total - a if exclusive else total
        return np.flip(total, axis) if backward else total

    return m.add(
        f"cumsum {axis}", lambda a: Builder.cumsum(x=a, axis=axis, exclusive=exclusive, reverse=backward), meaning, x
    )


@move
def softmax(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 1)
    if x is None:
        return False
    axis = m.axis(len(m.shape(x)))
    return m.add(f"softmax {axis}", lambda a: Builder.softmax(x=a, axis=axis), lambda a: _softmax(a, axis), x)


@move
def layer_norm(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 1)
    if x is None:
        return False
    rank = len(m.shape(x))
    axes, epsilon = m.axes(rank), m.scalar(0.5)
    where = tuple(sorted(a % rank for a in axes))
    extents = [m.shape(x)[a] for a in where]
    gamma, beta = m.constant(extents), m.constant(extents)
    wide = [m.shape(x)[a] if a in where else 1 for a in range(rank)]

    def meaning(a: np.ndarray) -> np.ndarray:
        result = (a - a.mean(where, keepdims=True)) / np.sqrt(a.var(where, keepdims=True) + float(epsilon))
        return result * gamma.astype(float).reshape(wide) + beta.astype(float).reshape(wide)

    return m.add(
        f"layer_norm {axes}",
        lambda a: Builder.layer_norm(x=a, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon),
        meaning,
        x,
    )
