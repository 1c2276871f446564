"""Assignment to slices, `x[:, 1:3] = values`, as a program that changes nothing in place.

    x ─► slice(before) ─┐
    values ─► broadcast ┼─► concat ─► x with the values        along each axis of which a part is written
    x ─► slice(after) ──┘

or, where one of both is constant, `select(mask, values with zeros around them, x)`. What lies between elements of a
step other than one is written again. Bounds that the program computes are left to coremltools' scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.frontend.torch.ops import _get_slice_params
from coremltools.converters.mil.mil import Var, types

from optimum_ane.targets.coreml.translations.arguments import arguments, constant
from optimum_ane.targets.coreml.translations.register import Translation, replaces


def assign(x: Any, values: Any, region: Sequence[tuple[int, int]], name: str | None = None) -> Any:
    """Puts values in place of a region of x.

    Args:
        x: Of any rank but 0.
        values: Of the region's shape and the type of x.
        region: For each axis where it begins and ends.
        name: Of the result.
    """
    named = {} if name is None else {"name": name}
    axis = next((axis for axis, (begin, end) in enumerate(region) if (begin, end) != (0, x.shape[axis])), None)
    if axis is None:
        return mb.identity(x=values, **named)
    if any(begin >= end for begin, end in region):
        return mb.identity(x=x, **named)
    if types.is_float(x.dtype) and (values.val is not None or x.val is not None):
        return _selected(x, values, region, named)
    begin, end = region[axis]
    middle = _part(x, axis, begin, end)
    rest = [*region]
    rest[axis] = (0, end - begin)
    parts = [_part(x, axis, 0, begin), assign(middle, values, rest), _part(x, axis, end, x.shape[axis])]
    kept = [part for part in parts if part is not None]
    if not types.is_bool(x.dtype):
        return mb.concat(values=kept, axis=axis, **named)
    # Programs join no flags.
    numbers = mb.concat(values=[mb.cast(x=part, dtype="int32") for part in kept], axis=axis)
    return mb.cast(x=numbers, dtype="bool", **named)


def _selected(x: Any, values: Any, region: Sequence[tuple[int, int]], named: dict[str, str]) -> Any:
    """The same where one of both is constant: of a concat of constants coremltools takes elements for integers."""
    places = tuple(slice(begin, end) for begin, end in region)
    mask = np.zeros(x.shape, bool)
    mask[places] = True
    if values.val is not None:
        whole = np.zeros(x.shape, values.val.dtype)
        whole[places] = values.val
    else:
        sides = [(begin, size - end) for (begin, end), size in zip(region, x.shape, strict=True)]
        whole = mb.pad(
            x=values, pad=np.array(sides, np.int32).reshape(-1), mode="constant", constant_val=np.float32(0)
        )
    return mb.select(cond=mask, a=whole, b=x, **named)


def _part(x: Any, axis: int, begin: int, end: int) -> Any:
    if begin >= end:
        return None
    first, last = [0] * x.rank, list(x.shape)
    first[axis], last[axis] = begin, end
    return mb.slice_by_index(x=x, begin=first, end=last)


def assign_broadcast(
    x: Any, values: Any, places: Sequence[np.ndarray[Any, Any]], squeezed: Sequence[bool], name: str
) -> Any:
    """Puts values, as PyTorch broadcasts and casts them, at places of x that are known.

    Args:
        x: Of any rank but 0.
        values: Broadcast to the shape of what is selected, without the axes that are squeezed.
        places: For each axis the indices that are written, evenly spaced.
        squeezed: For each axis whether it is selected by one index, and so is none of the values' axes.
        name: Of the result.
    """
    selected = [len(each) for each in places]
    if 0 in selected:
        return mb.identity(x=x, name=name)
    kept = [size for size, gone in zip(selected, squeezed, strict=True) if not gone]
    values = as_type(broadcast(values, kept), x.dtype)
    values = mb.reshape(x=values, shape=selected) if list(values.shape) != selected else values
    for axis, each in enumerate(places):
        if len(each) > 1 and each[1] - each[0] != 1:
            values, places = _with_between(x, values, places, axis)
    return assign(x, values, [(int(each[0]), int(each[-1]) + 1) for each in places], name)


def _with_between(
    x: Any, values: Any, places: Sequence[np.ndarray[Any, Any]], axis: int
) -> tuple[Any, Sequence[np.ndarray[Any, Any]]]:
    """The values along an axis with what x has between them, and the places that they have then."""
    between = x
    for other, each in enumerate(places):
        if other != axis:
            between = mb.gather(x=between, indices=each.astype(np.int32), axis=other)
    written = {int(place): turn for turn, place in enumerate(places[axis])}
    everything = np.arange(places[axis].min(), places[axis].max() + 1)
    sources = [written.get(int(place), len(written) + int(place)) for place in everything]
    numbers = [mb.cast(x=each, dtype="int32") if types.is_bool(x.dtype) else each for each in (values, between)]
    mixed = mb.gather(x=mb.concat(values=numbers, axis=axis), indices=np.array(sources, np.int32), axis=axis)
    return as_type(mixed, x.dtype), [*places[:axis], everything, *places[axis + 1 :]]


def broadcast(values: Any, shape: Sequence[int]) -> Any:
    """Gives values a shape, as PyTorch does in an assignment: leading axes of one that it lacks are dropped."""
    if not isinstance(values, Var):
        values = mb.const(val=np.asarray(values))
    while values.rank > len(shape) and values.shape[0] == 1:
        values = mb.squeeze(x=values, axes=[0])
    if values.rank > len(shape):
        raise NotImplementedError(f"values {tuple(values.shape)} for a slice {tuple(shape)}")
    if not shape:
        return values
    if values.rank < len(shape):
        values = mb.reshape(x=values, shape=[1] * (len(shape) - values.rank) + list(values.shape))
    repeats = [size if old == 1 else 1 for size, old in zip(shape, values.shape, strict=True)]
    if [old * times for old, times in zip(values.shape, repeats, strict=True)] != list(shape):
        raise NotImplementedError(f"values {tuple(values.shape)} for a slice {tuple(shape)}")
    if all(times == 1 for times in repeats):
        return values
    if not types.is_bool(values.dtype):
        return mb.tile(x=values, reps=repeats)
    return mb.cast(x=mb.tile(x=mb.cast(x=values, dtype="int32"), reps=repeats), dtype="bool")


@replaces("_internal_op_tensor_inplace_copy", "_internal_op_tensor_inplace_fill")
def copy_into_slice(context: Any, node: Any, otherwise: Translation) -> None:
    """Of a trace: what coremltools makes of `copy_` and `fill_` into selected slices."""
    x, values = context[node.inputs[0]], context[node.inputs[1]]
    if len(node.inputs) == 2:  # the whole tensor
        places, squeezed = [np.arange(size) for size in x.shape], [False] * x.rank
    else:
        begin, end, stride, begin_mask, end_mask, squeezed = _get_slice_params(context, x, node.inputs[2:])
        if begin.val is None or end.val is None:
            otherwise(context, node)
            return
        bounds = zip(x.shape, begin.val, end.val, stride, begin_mask, end_mask, squeezed, strict=True)
        places = [_places(*each) for each in bounds]
    if not x.rank:
        context.add(mb.reshape(x=as_type(values, x.dtype), shape=[], name=node.name))
        return
    context.add(assign_broadcast(x, values, places, squeezed, node.name))


def _places(
    size: int, begin: int, end: int, step: int, from_first: bool, to_last: bool, one: bool
) -> np.ndarray[Any, Any]:
    """The indices of one axis that are written."""
    if one:
        return np.array([begin % size])
    return np.arange(size)[slice(None if from_first else int(begin), None if to_last else int(end), int(step))]


@replaces("slice_scatter")
def slice_scatter(context: Any, node: Any, otherwise: Translation) -> None:
    """Of an export: values in place of a slice along one axis."""
    x, values, dim, start, end, step = arguments(context, node, "self", "src", "dim", "start", "end", "step")
    bounds = [None if each is None else int(constant(each, "a slice")) for each in (start, end, step)]
    axis = 0 if dim is None else int(constant(dim, "the axis of a slice")) % x.rank
    places = [np.arange(size) for size in x.shape]
    places[axis] = places[axis][slice(*bounds)]
    context.add(assign_broadcast(x, values, places, [False] * x.rank, node.name))


@replaces("select_scatter")
def select_scatter(context: Any, node: Any, otherwise: Translation) -> None:
    """Of an export: values in place of what one index selects."""
    x, values, dim, index = arguments(context, node, "self", "src", "dim", "index")
    axis = int(constant(dim, "the axis of a slice")) % x.rank
    places = [np.arange(size) for size in x.shape]
    places[axis] = np.array([int(constant(index, "an index")) % x.shape[axis]])
    squeezed = [place == axis for place in range(x.rank)]
    context.add(assign_broadcast(x, values, places, squeezed, node.name))


def as_type(values: Any, dtype: Any) -> Any:
    """Casts to a type of programs, where it is another."""
    return values if values.dtype == dtype else mb.cast(x=values, dtype=types.builtin_to_string(dtype))
