"""Values written to places that are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Var, types

from optimum_ane.targets.coreml.translations.arguments import arguments, constant
from optimum_ane.targets.coreml.translations.assignment import as_type, assign, broadcast
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces

_MODES = {"sum": "add", "add": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min", None: "update"}
_SCATTER = ("scatter", "scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce", "scatter_add")


@replaces(*_SCATTER)
def scatter(context: Any, node: Any, otherwise: Translation) -> None:
    """Writes, adds or multiplies values at indices along an axis; values may be of another type, indices fewer."""
    names = ("self", "dim", "index", "value" if "value" in node.kind else "src", "reduce")
    x, dim, index, values, reduce = arguments(context, node, *names)
    mode = "add" if node.kind == "scatter_add" else _MODES[None if reduce is None else constant(reduce, "a reduction")]
    context.add(_scattered(x, dim, index, values, mode, node.name))


@adds("scatter_reduce", "scatter_reduce.two")
def scatter_reduce(context: Any, node: Any) -> None:
    """Reduces what is written to the same place: sum, product, mean, least or largest."""
    names = ("self", "dim", "index", "src", "reduce", "include_self")
    x, dim, index, values, reduce, include = arguments(context, node, *names)
    how = constant(reduce, "a reduction")
    includes = True if include is None else bool(constant(include, "whether a tensor counts"))
    if not includes:
        # The tensor's own numbers, where others come, give way to ones that change nothing.
        neutral: Any = 1.0 if how == "prod" else 0.0
        if how in ("amin", "amax"):
            neutral = mb.reduce_max(x=values) if how == "amin" else mb.reduce_min(x=values)
        x = _scattered(x, dim, index, neutral, "update")
    if how != "mean":
        context.add(_scattered(x, dim, index, values, _MODES[how], node.name))
        return
    total = _scattered(x, dim, index, values, "add")
    count = np.full(x.shape, 1.0 if includes else 0.0, np.float32)
    number = _scattered(mb.const(val=count), dim, index, 1.0, "add")
    context.add(mb.real_div(x=total, y=mb.maximum(x=number, y=1.0), name=node.name))


@adds("index_add", "index_copy", "index_fill", "index_fill.int_scalar")
def index_write(context: Any, node: Any) -> None:
    """Adds or writes slices along an axis at indices (n,)."""
    names = ("self", "dim", "index", "value" if node.kind.startswith("index_fill") else "source", "alpha")
    x, dim, index, values, alpha = arguments(context, node, *names)
    axis = int(constant(dim, "the axis of a scatter")) % x.rank
    if alpha is not None and constant(alpha, "the factor of a sum") != 1:
        values = mb.mul(x=values, y=np.float32(constant(alpha, "the factor of a sum")))
    mode = "add" if node.kind == "index_add" else "update"
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    context.add(write_slices(x, axis, index, _filled(values, shape, x.dtype), mode, node.name))


@adds("masked_scatter")
def masked_scatter(context: Any, node: Any) -> None:
    """Writes values, in their order, to the places that a mask chooses, in theirs: the n-th chosen takes the n-th."""
    x, mask, source = arguments(context, node, "self", "mask", "source")
    chosen = broadcast(mb.cast(x=mask, dtype="int32"), x.shape)
    flat = mb.reshape(x=chosen, shape=[-1])
    turn = mb.sub(x=mb.cumsum(x=flat, axis=0), y=1)
    turn = mb.minimum(x=mb.maximum(x=turn, y=0), y=int(np.prod(source.shape)) - 1)
    values = mb.reshape(x=mb.gather(x=mb.reshape(x=source, shape=[-1]), indices=turn, axis=0), shape=x.shape)
    context.add(mb.select(cond=mb.cast(x=chosen, dtype="bool"), a=as_type(values, x.dtype), b=x, name=node.name))


@replaces("index_put", "_unsafe_index_put")
def index_put(context: Any, node: Any, otherwise: Translation) -> None:
    """`x[indices] = values`: of a mask with values that do not depend on how many it chooses, and of one axis."""
    names = ("self", "indices", "values", "accumulate")
    x, indices, values, accumulate = arguments(context, node, *names)
    adds_up = False if accumulate is None else bool(constant(accumulate, "whether values are added up"))
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) == 1:
        axis, index = given[0]
        if types.is_bool(index.dtype) and not adds_up and _is_for_any_number(values, x.rank - axis - index.rank):
            shape = [1] * axis + list(index.shape) + [1] * (x.rank - axis - index.rank)
            mask = broadcast(mb.reshape(x=mb.cast(x=index, dtype="int32"), shape=shape), x.shape)
            filled = as_type(broadcast(values, x.shape), x.dtype)
            context.add(mb.select(cond=mb.cast(x=mask, dtype="bool"), a=filled, b=x, name=node.name))
            return
        if types.is_int(index.dtype) and index.rank == 1:
            shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
            new = as_type(broadcast(values, shape), x.dtype)
            context.add(write_slices(x, axis, index, new, "add" if adds_up else "update", node.name))
            return
    if len(given) < len(indices) or any(types.is_bool(index.dtype) for _, index in given):
        raise NotImplementedError("assignment to places of several axes, or to as many as a mask chooses")
    otherwise(context, node)


def _is_for_any_number(values: Any, rank_after: int) -> bool:
    """Whether values are the same for each chosen place: they have no axis for the places, or one of length 1."""
    return (
        values.rank <= rank_after or (values.rank == rank_after + 1 and values.shape[0] == 1) or values.shape == (1,)
    )


def write_slices(x: Any, axis: int, index: Any, values: Any, mode: str, name: str) -> Any:
    """Writes values (…, n, …) of the type of x at indices (n,) along an axis; negative ones count from the end."""
    index = index if types.is_int(index.dtype) else mb.cast(x=index, dtype="int32")
    index = mb.select(cond=mb.greater_equal(x=index, y=0), a=index, b=mb.add(x=index, y=x.shape[axis]))
    return _in_numbers(
        lambda data, updates, last: mb.scatter(
            data=data, indices=index, updates=updates, axis=axis, mode=mode, **last
        ),
        x,
        values,
        name,
    )


def _scattered(x: Any, dim: Any, index: Any, values: Any, mode: str, name: str | None = None) -> Any:
    if not x.rank:
        raise NotImplementedError("a scatter into a single number")
    axis = int(constant(dim, "the axis of a scatter")) % x.rank
    updates = _filled(values, index.shape, x.dtype)
    inner = [size if place != axis else x.shape[axis] for place, size in enumerate(index.shape)]

    def write(data: Any, new: Any, last: dict[str, str]) -> Any:
        part = data
        if inner != list(data.shape):
            part = mb.slice_by_index(x=data, begin=[0] * data.rank, end=inner)
        named = last if part is data else {}
        if all(each.val is not None for each in (part, index, new)):
            known = _scattered_beforehand(part.val, index.val, new.val, axis, mode)
            if part is data:
                return mb.const(val=known, **named)
            return assign(data, mb.const(val=known), [(0, size) for size in inner], last.get("name"))
        written = mb.scatter_along_axis(data=part, indices=index, updates=new, axis=axis, mode=mode, **named)
        if part is data:
            return written
        return assign(data, written, [(0, size) for size in inner], last.get("name"))

    return _in_numbers(write, x, updates, name)


_UFUNCS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scattered_beforehand(x: Any, index: Any, values: Any, axis: int, mode: str) -> Any:
    """What coremltools computes beforehand of constants, but for every mode as if it were an update."""
    result, places = np.array(x), list(np.indices(np.shape(index)))
    places[axis] = index
    if mode == "update":
        result[tuple(places)] = values
    else:
        _UFUNCS[mode].at(result, tuple(places), values)
    return result


def _in_numbers(write: Any, x: Any, values: Any, name: str | None) -> Any:
    """Writes flags as integers, for programs scatter no flags."""
    last = {} if name is None else {"name": name}
    if not types.is_bool(x.dtype):
        return write(x, values, last)
    numbers = write(mb.cast(x=x, dtype="int32"), mb.cast(x=values, dtype="int32"), {})
    return mb.cast(x=numbers, dtype="bool", **last)


def _filled(values: Any, shape: Any, dtype: Any) -> Any:
    """Values of a shape and a type, from one number or from at least as many."""
    if not isinstance(values, Var):
        return mb.const(val=np.full(tuple(shape), values, types.nptype_from_builtin(dtype)))
    if values.rank == 0:
        if values.val is not None:
            return mb.const(val=np.full(tuple(shape), values.val, types.nptype_from_builtin(dtype)))
        values = mb.reshape(x=values, shape=[1] * len(shape))
        return mb.tile(x=as_type(values, dtype), reps=list(shape))
    values = as_type(values, dtype)
    if tuple(values.shape) != tuple(shape):
        values = mb.slice_by_index(x=values, begin=[0] * values.rank, end=list(shape))
    return values
