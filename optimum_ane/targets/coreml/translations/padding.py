"""Padding of sides, which may also take away."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types

from optimum_ane.targets.coreml.translations.arguments import arguments, constant, integers
from optimum_ane.targets.coreml.translations.register import Translation, replaces


@replaces("pad", "constant_pad_nd")
def pad(context: Any, node: Any, otherwise: Translation) -> None:
    """Pads with a number, or with what is at the other sides; negative widths take elements away.

    coremltools refuses the last two. Modes that repeat or mirror the border are left to it, where nothing is
    negative.
    """
    names = ("self", "pad", "mode", "value") if node.kind == "pad" else ("self", "pad", "value")
    given = dict(zip(names, arguments(context, node, *names), strict=True))
    x = given["self"]
    widths = integers(given["pad"], "the widths of a padding")
    mode = given.get("mode")
    mode = "constant" if mode is None else str(constant(mode, "the mode of a padding"))
    if mode in ("reflect", "replicate") and min(widths) >= 0:
        otherwise(context, node)
        return
    sides = _by_axis(widths, x.rank)
    if mode == "circular":
        context.add(_wrapped(x, sides, node.name))
    elif mode == "constant":
        value = 0 if given["value"] is None else constant(given["value"], "the value of a padding")
        context.add(_padded(_cropped(x, sides), np.maximum(sides, 0), value, node.name))
    else:
        raise NotImplementedError(f"a padding of mode {mode} with a negative width")


def _by_axis(widths: list[int], rank: int) -> np.ndarray[Any, Any]:
    """(rank, 2): before and after each axis. PyTorch begins with the last axis."""
    sides = np.zeros((rank, 2), np.int32)
    given = np.reshape(widths, (-1, 2))
    for index, pair in enumerate(given):
        sides[rank - 1 - index] = pair
    return sides


def _cropped(x: Any, sides: np.ndarray[Any, Any]) -> Any:
    if sides.min() >= 0:
        return x
    begin = np.maximum(-sides[:, 0], 0)
    end = np.array(x.shape) - np.maximum(-sides[:, 1], 0)
    return mb.slice_by_index(x=x, begin=begin.astype(np.int32), end=end.astype(np.int32))


def _padded(x: Any, sides: np.ndarray[Any, Any], value: Any, name: str) -> Any:
    if not sides.any():
        return mb.identity(x=x, name=name)
    numpy_type = types.nptype_from_builtin(x.dtype)
    if types.is_float(x.dtype):
        filling = numpy_type(value)
        return mb.pad(x=x, pad=sides.reshape(-1), mode="constant", constant_val=filling, name=name)
    # Programs pad numbers that are floating only, and join no flags.
    is_flag, filling = types.is_bool(x.dtype), np.int32(value)
    x = mb.cast(x=x, dtype="int32") if is_flag else x
    for axis, widths in enumerate(sides):
        shapes = [[*x.shape[:axis], width, *x.shape[axis + 1 :]] for width in widths]
        before, after = ([mb.const(val=np.full(shape, filling))] if shape[axis] else [] for shape in shapes)
        x = mb.concat(values=[*before, x, *after], axis=axis) if widths.any() else x
    return mb.cast(x=x, dtype="bool", name=name) if is_flag else mb.identity(x=x, name=name)


def _wrapped(x: Any, sides: np.ndarray[Any, Any], name: str) -> Any:
    for axis, (before, after) in enumerate(sides):
        if before or after:
            indices = np.arange(-before, x.shape[axis] + after) % x.shape[axis]
            x = mb.gather(x=x, indices=indices.astype(np.int32), axis=axis)
    return mb.identity(x=x, name=name)
