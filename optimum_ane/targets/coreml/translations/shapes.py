"""Views: values that keep their numbers and change their axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from optimum_ane.targets.coreml.translations.arguments import arguments, constant, integers
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces


@adds("alias")
def alias(context: Any, node: Any) -> None:
    """The value itself."""
    (x,) = arguments(context, node, "self")
    context.add(x, torch_name=node.name)


@adds("view_as")
def view_as(context: Any, node: Any) -> None:
    """The values of one in the shape of another."""
    x, other = arguments(context, node, "self", "other")
    context.add(mb.reshape(x=x, shape=other.shape, name=node.name))


@adds("movedim", "moveaxis", "movedim.int")
def movedim(context: Any, node: Any) -> None:
    """Moves axes to other places; the others keep their order."""
    x, source, destination = arguments(context, node, "self", "source", "destination")
    origins = [axis % x.rank for axis in integers(source, "the axes to move")]
    places = [axis % x.rank for axis in integers(destination, "the places of axes")]
    others = iter([axis for axis in range(x.rank) if axis not in origins])
    moved = dict(zip(places, origins, strict=True))
    order = [moved[place] if place in moved else next(others) for place in range(x.rank)]
    context.add(mb.transpose(x=x, perm=order, name=node.name))


@adds("unsafe_chunk", "tensor_split", "tensor_split.sections", "tensor_split.indices")
def chunk(context: Any, node: Any) -> None:
    """Parts along an axis: as many as asked for, or cut where asked for."""
    x, sections, dim = arguments(context, node, "self", "sections", "dim")
    axis = (0 if dim is None else int(constant(dim, "the axis of parts"))) % x.rank
    size = x.shape[axis]
    known = np.asarray(constant(sections, "the number of parts"))
    if node.kind == "unsafe_chunk":
        length = -(-size // int(known))
        cuts = list(range(length, size, length))
    elif known.ndim:
        cuts = [int(np.clip(cut + size if cut < 0 else cut, 0, size)) for cut in known]
    else:  # the first ones get one more where it does not divide
        cuts = list(np.cumsum([len(part) for part in np.array_split(np.arange(size), int(known))])[:-1])
    sizes = np.diff([0, *cuts, size])
    parts = mb.split(x=x, split_sizes=sizes.astype(np.int32), axis=axis) if len(sizes) > 1 else [x]
    context.add(tuple(parts), torch_name=node.name)


@replaces("roll")
def roll(context: Any, node: Any, otherwise: Translation) -> None:
    """Turns axes round: what falls off at an end is put before the start. coremltools gathers all elements."""
    x, shifts, dims = arguments(context, node, "self", "shifts", "dims")
    if any(is_symbolic(extent) for extent in x.shape):
        otherwise(context, node)
        return
    steps = integers(shifts, "how far to turn")
    axes = [] if dims is None else integers(dims, "the axes to turn")
    turned = x if axes else mb.reshape(x=x, shape=[-1])
    for axis, step in zip(axes or [0], steps, strict=True):
        size = turned.shape[axis]
        if step % size:
            first = size - step % size
            parts = mb.split(x=turned, split_sizes=np.array([first, size - first], dtype=np.int32), axis=axis)
            turned = mb.concat(values=parts[::-1], axis=axis)
    context.add(mb.identity(x=turned, name=node.name) if axes else mb.reshape(x=turned, shape=x.shape, name=node.name))


@adds("unsafe_split", "unsafe_split.tensor")
def split(context: Any, node: Any) -> None:
    """Parts of one length along an axis, the last one shorter."""
    x, length, dim = arguments(context, node, "self", "split_size", "dim")
    axis = (0 if dim is None else int(constant(dim, "the axis of parts"))) % x.rank
    size, each = x.shape[axis], int(constant(length, "the length of parts"))
    sizes = np.diff([*range(0, size, each), size]).astype(np.int32)
    parts = mb.split(x=x, split_sizes=sizes, axis=axis) if len(sizes) > 1 else [x]
    context.add(tuple(parts), torch_name=node.name)


@replaces("repeat", "tile")
def repeat(context: Any, node: Any, otherwise: Translation) -> None:
    """Repeats along axes: also along new ones, and where arithmetic on sizes has made the numbers floating."""
    x, repeats = arguments(context, node, "self", "repeats")
    try:
        times = integers(repeats, "how often to repeat")
    except NotImplementedError:
        otherwise(context, node)
        return
    new = len(times) - x.rank
    if new > 0:
        x = mb.expand_dims(x=x, axes=list(range(new))) if x.rank else mb.reshape(x=x, shape=[1] * new)
    times = [1] * (x.rank - len(times)) + times
    if not x.rank:
        context.add(mb.identity(x=x, name=node.name))
    else:
        context.add(mb.tile(x=x, reps=times, name=node.name))


@replaces("repeat_interleave", "repeat_interleave.self_tensor", "repeat_interleave.self_int")
def repeat_interleave(context: Any, node: Any, otherwise: Translation) -> None:
    """Repeats each element along an axis: as often as numbers say that are known when the program is made."""
    x, repeats, dim, _ = arguments(context, node, "self", "repeats", "dim", "output_size")
    try:
        times = integers(repeats, "how often to repeat")
    except NotImplementedError:
        otherwise(context, node)
        return
    if dim is None:
        x, axis = mb.reshape(x=x, shape=[-1]), 0
    else:
        axis = int(constant(dim, "the axis to repeat along")) % x.rank
    indices = np.repeat(np.arange(x.shape[axis]), times[0] if len(times) == 1 else times).astype(np.int32)
    context.add(mb.gather(x=x, indices=indices, axis=axis, name=node.name))


@replaces("diagonal", "diagonal_copy")
def diagonal(context: Any, node: Any, otherwise: Translation) -> None:
    """The diagonal of two axes, as the last one. Of an export coremltools gives the whole with zeros beside it."""
    x, offset, first, second = arguments(context, node, "self", "offset", "dim1", "dim2")
    offset = 0 if offset is None else int(constant(offset, "the offset of a diagonal"))
    axes = [
        (default if each is None else int(constant(each, "the axes of a diagonal"))) % x.rank
        for each, default in ((first, 0), (second, 1))
    ]
    others = [axis for axis in range(x.rank) if axis not in axes]
    rows, columns = (x.shape[axis] for axis in axes)
    flat = mb.reshape(
        x=mb.transpose(x=x, perm=[*others, *axes]), shape=[*(x.shape[axis] for axis in others), rows * columns]
    )
    places = np.diagonal(np.arange(rows * columns).reshape(rows, columns), offset).astype(np.int32)
    context.add(mb.gather(x=flat, indices=places, axis=len(others), name=node.name))


@adds("unfold")
def unfold(context: Any, node: Any) -> None:
    """Windows along an axis: their number in its place, their width as a new last axis."""
    x, dim, size, step = arguments(context, node, "self", "dimension", "size", "step")
    axis = int(constant(dim, "the axis of windows")) % x.rank
    width, stride = int(constant(size, "the width of windows")), int(constant(step, "the step of windows"))
    starts = np.arange(0, x.shape[axis] - width + 1, stride)
    windows = mb.gather(x=x, indices=(starts[:, None] + np.arange(width)).astype(np.int32), axis=axis)
    order = [place for place in range(x.rank + 1) if place != axis + 1] + [axis + 1]
    context.add(mb.transpose(x=windows, perm=order, name=node.name))


@adds("as_strided")
def as_strided(context: Any, node: Any) -> None:
    """Elements by their places in memory.

    The capture has put what it is given in the order of memory, or refused it.
    """
    x, size, stride, offset = arguments(context, node, "self", "size", "stride", "storage_offset")
    places = np.array(0 if offset is None else int(constant(offset, "an offset in memory")))
    for length, step in zip(integers(size, "a shape"), integers(stride, "strides"), strict=True):
        places = places[..., None] + np.arange(length) * step
    flat = mb.reshape(x=x, shape=[-1])
    context.add(mb.gather(x=flat, indices=places.astype(np.int32), axis=0, name=node.name))
