"""Where numbers stand among others."""

from __future__ import annotations

from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

from optimum_ane.targets.coreml.translations.arguments import arguments, constant
from optimum_ane.targets.coreml.translations.assignment import broadcast
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces


@adds("bucketize", "bucketize.tensor")
def bucketize(context: Any, node: Any) -> None:
    """The index of the interval between boundaries (n,) that holds each number."""
    x, boundaries, _, right = arguments(context, node, "self", "boundaries", "out_int32", "right")
    is_right = False if right is None else bool(constant(right, "which end of an interval belongs to it"))
    context.add(_count_below(boundaries, x, is_right, node.name))


@replaces("searchsorted")
def searchsorted(context: Any, node: Any, otherwise: Translation) -> None:
    """The same with one sequence (n,) for numbers of any shape; more of them as coremltools does it."""
    names = ("sorted_sequence", "self", "out_int32", "right", "side", "sorter")
    sequence, x, _, right, side, sorter = arguments(context, node, *names)
    if sequence.rank != 1 or sorter is not None:
        otherwise(context, node)
        return
    is_right = False if right is None else bool(constant(right, "which end of an interval belongs to it"))
    if side is not None:
        is_right = constant(side, "which end of an interval belongs to it") == "right"
    context.add(_count_below(sequence, x, is_right, node.name))


@adds("isin", "isin.tensor_tensor")
def isin(context: Any, node: Any) -> None:
    """Whether each number is among others."""
    x, among, _, invert = arguments(context, node, "elements", "test_elements", "assume_unique", "invert")
    others = mb.reshape(x=among, shape=[1] * x.rank + [-1])
    x, others = promote_input_dtypes([mb.expand_dims(x=x, axes=[-1]), others])
    times = mb.reduce_sum(x=mb.cast(x=mb.equal(x=x, y=others), dtype="int32"), axes=[-1])
    inverts = invert is not None and constant(invert, "whether the answer is inverted")
    context.add(mb.equal(x=times, y=0, name=node.name) if inverts else mb.greater(x=times, y=0, name=node.name))


@adds("isinf", "isneginf", "isposinf")
def isinf(context: Any, node: Any) -> None:
    """Whether a number is infinite, for which a trace's infinities, 3.4e38, count."""
    (x,) = arguments(context, node, "self")
    if node.kind == "isinf":
        x = mb.abs(x=x)
    infinite = (
        mb.less(x=x, y=-3e38, name=node.name) if node.kind == "isneginf" else mb.greater(x=x, y=3e38, name=node.name)
    )
    context.add(infinite)


@replaces("gather")
def gather(context: Any, node: Any, otherwise: Translation) -> None:
    """Of flags as well, which programs do not gather."""
    x, dim, index, _ = arguments(context, node, "self", "dim", "index", "sparse_grad")
    if not types.is_bool(x.dtype):
        otherwise(context, node)
        return
    numbers, axis = mb.cast(x=x, dtype="int32"), int(constant(dim, "the axis of a gather"))
    gathered = mb.gather_along_axis(x=numbers, indices=mb.cast(x=index, dtype="int32"), axis=axis)
    context.add(mb.cast(x=gathered, dtype="bool", name=node.name))


@adds("take_along_dim")
def take_along_dim(context: Any, node: Any) -> None:
    """Elements at indices along an axis, the indices broadcast over the others."""
    x, index, dim = arguments(context, node, "self", "indices", "dim")
    if dim is None or index.rank != x.rank:
        raise NotImplementedError("take_along_dim without an axis, or with indices of another rank")
    axis = int(constant(dim, "the axis of a gather")) % x.rank
    sizes = [max(pair) for pair in zip(x.shape, index.shape, strict=True)]
    x = broadcast(x, [x.shape[axis] if place == axis else size for place, size in enumerate(sizes)])
    index = broadcast(index, [index.shape[axis] if place == axis else size for place, size in enumerate(sizes)])
    context.add(mb.gather_along_axis(x=x, indices=index, axis=axis, name=node.name))


def _count_below(sequence: Any, x: Any, is_right: bool, name: str) -> Any:
    """How many of a sequence are less than each number, or no larger."""
    numbers = mb.expand_dims(x=x, axes=[-1])
    if x.rank == 0:
        numbers = mb.reshape(x=x, shape=[1])
    numbers, sequence = promote_input_dtypes([numbers, sequence])
    below = mb.greater_equal if is_right else mb.greater
    return mb.reduce_sum(x=mb.cast(x=below(x=numbers, y=sequence), dtype="int32"), axes=[-1], name=name)
