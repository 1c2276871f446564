"""Moves that multiply or look through windows: products of matrices, convolutions, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder
from numpy.lib.stride_tricks import sliding_window_view

from program_fuzzing.maker import Maker, move


@move
def matmul(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim >= 2)
    if x is None:
        return False
    flip_x, flip_y, left = m.chance(0.4), m.chance(0.4), m.chance(0.3)
    inner = m.shape(x)[-2 if flip_x != left else -1]
    other = m.integer(1, 6)
    rows, columns = (other, inner) if left else (inner, other)
    weight = m.constant((columns, rows) if flip_y else (rows, columns))
    wide = weight.astype(float)
    wide = wide.T if flip_y else wide

    def meaning(a: np.ndarray) -> np.ndarray:
        a = a.swapaxes(-1, -2) if flip_x else a
        return wide @ a if left else a @ wide

    def emit(a: Any) -> Any:
        if left:
            return Builder.matmul(x=weight, y=a, transpose_x=flip_y, transpose_y=flip_x)
        return Builder.matmul(x=a, y=weight, transpose_x=flip_x, transpose_y=flip_y)

    return m.add(f"matmul {flip_x} {flip_y} {left}", emit, meaning, x)


@move
def gram(m: Maker) -> bool:
    """A product of two computed values."""
    x = m.pick("f", lambda a: a.ndim >= 2)
    if x is None:
        return False
    return m.add(
        "matmul of itself",
        lambda a: Builder.matmul(x=a, y=a, transpose_y=True),
        lambda a: a @ a.swapaxes(-1, -2),
        x,
    )


@move
def linear(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim in (1, 2, 3))
    if x is None:
        return False
    weight = m.constant((m.integer(1, 6), m.shape(x)[-1]))
    bias = m.constant((weight.shape[0],))
    return m.add(
        "linear",
        lambda a: Builder.linear(x=a, weight=weight, bias=bias),
        lambda a: a @ weight.astype(float).T + bias.astype(float),
        x,
    )


@move
def einsum(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim == 4)
    if x is None:
        return False
    batch, _, height, width = m.shape(x)
    y = m.constant((batch, width, height, m.integer(1, 5)))
    equation = "bchw,bwhu->bchu"
    return m.add(
        "einsum",
        lambda a: Builder.einsum(values=(a, y), equation=equation),
        lambda a: np.einsum(equation, a, y.astype(float)),
        x,
    )


def _windows(a: np.ndarray, kernel: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    axes = tuple(range(2, a.ndim))
    view = sliding_window_view(a, tuple(kernel), axes)
    return view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]


@move
def conv(m: Maker) -> bool:
    x = m.pick("f", lambda a: a.ndim in (3, 4))
    if x is None:
        return False
    shape = m.shape(x)
    kernel = [m.integer(1, 4) for _ in shape[2:]]
    strides = [m.integer(1, 3) for _ in shape[2:]]
    pad = [m.integer(0, 2) if k == 1 else k // 2 for k in kernel for _ in range(2)]
    if any(n + a + b < k for n, a, b, k in zip(shape[2:], pad[::2], pad[1::2], kernel, strict=True)):
        return False
    weight = m.constant((m.integer(1, 5), shape[1], *kernel))
    bias = m.constant((weight.shape[0],))
    pairs = [(0, 0), (0, 0), *zip(pad[::2], pad[1::2], strict=True)]
    letters = "xyz"[: len(kernel)]

    def meaning(a: np.ndarray) -> np.ndarray:
        cut = _windows(np.pad(a, pairs), kernel, strides)
        up = letters.upper()
        result = np.einsum(f"nc{up}{letters},oc{letters}->no{up}", cut, weight.astype(float))
        return result + bias.astype(float).reshape(-1, *[1] * len(kernel))

    return m.add(
        f"conv {weight.shape} {strides} {pad}",
        lambda a: Builder.conv(x=a, weight=weight, bias=bias, strides=strides, pad_type="custom", pad=pad),
        meaning,
        x,
    )


@move
def pool(m: Maker) -> bool:
    name = m.choice(["max_pool", "avg_pool", "l2_pool"])
    x = m.pick("f", lambda a: a.ndim in (3, 4) and min(a.shape[2:]) >= 2)
    if x is None:
        return False
    kernel = [m.integer(1, min(n, 3) + 1) for n in m.shape(x)[2:]]
    strides = [m.integer(1, 3) for _ in kernel]
    axes = tuple(range(-len(kernel), 0))
    meaning = {
        "max_pool": lambda w: w.max(axes),
        "avg_pool": lambda w: w.mean(axes),
        "l2_pool": lambda w: np.sqrt((w**2).sum(axes)),
    }[name]
    return m.add(
        f"{name} {kernel} {strides}",
        lambda a: getattr(Builder, name)(x=a, kernel_sizes=kernel, strides=strides, pad_type="valid"),
        lambda a: meaning(_windows(a, kernel, strides)),
        x,
    )


@move
def integers_beside_floats(m: Maker) -> bool:
    """What iOS 17 allows: a weight of integers, or integers times a weight of floats. Their sums are whole."""
    x = m.pick("fi", lambda a: a.ndim >= 2)
    if x is None or not m.is_late:
        return False
    weight = m.constant((m.shape(x)[-1], m.integer(1, 6)), "i")
    given = weight if m.kind(x) == "f" else weight.astype(m.dtype)
    return m.add("mixed", lambda a: Builder.matmul(x=a, y=given), lambda a: a @ weight.astype(a.dtype), x)


@move
def recurrent(m: Maker) -> bool:
    """A cell of random weights over a sequence; fp16 cells came with iOS 17."""
    x = m.pick("f", lambda a: a.ndim == 3)
    if x is None or not (m.is_late or m.dtype is np.float32):
        return False
    op = m.choice(["rnn", "gru", "lstm"])
    direction, keep, units = m.choice(["forward", "reverse"]), m.chance(0.5), m.integer(1, 4)
    _, batch, inputs = m.shape(x)
    rows = units * {"rnn": 1, "gru": 3, "lstm": 4}[op]
    weights = {"weight_ih": m.constant((rows, inputs)), "weight_hh": m.constant((rows, units))}
    weights["bias"] = m.constant((rows,))
    states = {name: m.constant((batch, units)) for name in ("initial_h", "initial_c")[: 2 if op == "lstm" else 1]}
    result = m.integer(0, 1 + len(states))
    options = {"direction": direction, "output_sequence": keep}

    def meaning(a: np.ndarray) -> np.ndarray:
        order = a if direction == "forward" else a[::-1]
        wide = [array.astype(float) for array in (*weights.values(), *states.values())]
        steps, ends = _CELLS[op](order, *wide)
        return [steps if keep else steps[-1:], *ends][result]

    return m.add(
        f"{op} {direction} {keep} {result}",
        lambda a: getattr(Builder, op)(x=a, **states, **weights, **options)[result],
        meaning,
        x,
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _rnn(x: np.ndarray, w: np.ndarray, v: np.ndarray, b: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, list]:
    steps = []
    for step in x:
        h = np.tanh(step @ w.T + h @ v.T + b)
        steps.append(h)
    return np.stack(steps), [h]


def _gru(x: np.ndarray, w: np.ndarray, v: np.ndarray, b: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, list]:
    (v_r, v_o, v_z), steps = np.split(v, 3), []
    for step in x:
        r, o, z = np.split(step @ w.T + b, 3, -1)
        r, z = _sigmoid(r + h @ v_r.T), _sigmoid(z + h @ v_z.T)
        h = (1 - z) * np.tanh(o + (r * h) @ v_o.T) + z * h
        steps.append(h)
    return np.stack(steps), [h]


def _lstm(
    x: np.ndarray, w: np.ndarray, v: np.ndarray, b: np.ndarray, h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, list]:
    steps = []
    for step in x:
        i, f, o, z = np.split(step @ w.T + h @ v.T + b, 4, -1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(z)
        h = _sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps), [h, c]


_CELLS = {"rnn": _rnn, "gru": _gru, "lstm": _lstm}
