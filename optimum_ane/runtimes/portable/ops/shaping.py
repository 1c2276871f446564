"""Operations that move values and compute none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Call, op, prepare


@op("transpose", exact=True)
def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    """Permutes the axes."""
    return x.permute(tuple(perm))


@op("reshape", exact=True)
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Gives another shape: -1 is what remains, 0 the extent of x at that place counted from the right, or 1."""
    offset = x.ndim - len(shape)
    extents = [extent if extent else (x.shape[i + offset] if i + offset >= 0 else 1) for i, extent in enumerate(shape)]
    return x.reshape(extents)


@op("reshape_like", exact=True)
def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    begins: Sequence[Tensor],
    ends: Sequence[Tensor],
    end_masks: Sequence[Tensor],
) -> Tensor:
    """Gives a shape put together from parts of other tensors' shapes.

    Args:
        x: The tensor.
        ref_tensors: Those whose shapes are used.
        begins: The first axis of each of them, of rank 0.
        ends: The axis after the last of each, of rank 0.
        end_masks: Whether all axes from the first on are meant, whatever `ends` says; of rank 0.
    """
    extents: list[int] = []
    for reference, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        extents += reference.shape[int(begin) : None if to_end else int(end)]
    return x.reshape(extents)


@op("squeeze", exact=True)
def squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Drops axes of extent 1, all of them where none is named."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@op("expand_dims", exact=True)
def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Adds axes of extent 1 at these places of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("flatten2d", exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Flattens the axes before `axis` into one, and the others into another."""
    rows = math.prod(x.shape[:axis])
    return x.reshape(rows, math.prod(x.shape[axis:]))


@op("shape", exact=True)
def shape(x: Tensor) -> Tensor:
    """Returns the extents."""
    return torch.tensor(x.shape, dtype=torch.int32)


@op("concat", exact=True)
def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Joins tensors along an axis; interleaved, takes one element of each in turn.

    It joins them in the order in which they lie in memory, so that the result lies the same way.
    """
    values = [value[None] if value.ndim == 0 else value for value in values]
    if interleave:
        at = axis % values[0].ndim
        return torch.stack(values, at + 1).flatten(at, at + 1)
    first = values[0]
    order = sorted(range(first.ndim), key=first.stride, reverse=True)
    if order == list(range(first.ndim)):
        return torch.cat(values, axis)
    place = order.index(axis % first.ndim)
    joined = torch.cat([value.permute(order) for value in values], place)
    return joined.permute([order.index(i) for i in range(first.ndim)])


@prepare("concat")
def _plain_concat(call: Call) -> Callable[..., Tensor] | None:
    """Tensors that lie in the order of their axes, as most do, need no look at that order."""
    if not call.dynamic or {*call.dynamic} != {"values"} or "axis" not in call.constants:
        return None
    axis = call.python("axis", 0)
    if call.python("interleave", False) or "values" in call.constants:
        return None

    def join(*values: Tensor) -> Tensor:
        return torch.cat(values, axis) if values[0].ndim and values[0].is_contiguous() else concat(values, axis)

    return join


@op("stack", exact=True)
def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    """Joins tensors along a new axis."""
    return torch.stack(list(values), axis)


@op("split", exact=True)
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """Cuts along an axis: into pieces of these sizes, or into so many equal ones."""
    if split_sizes is not None:
        return x.split(list(split_sizes), axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"cannot cut {x.shape[axis]} into {num_splits} equal pieces")
    return x.split(x.shape[axis] // num_splits, axis)


@op("slice_by_index", exact=True)
def slice_by_index(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Cuts out a part, as Python slices do.

    Args:
        x: The tensor.
        begin: The first index of each axis.
        end: The index after the last of each axis.
        stride: The step of each axis; may be negative.
        begin_mask: The axes that start at their beginning, whatever `begin` says.
        end_mask: The axes that run to their end, whatever `end` says.
        squeeze_mask: The axes of which the one element at `begin` is taken, and which vanish.
    """
    ranges = chosen_ranges(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis in reversed(range(x.ndim)):
        taken = ranges[axis]
        if squeeze_mask and squeeze_mask[axis]:
            x = x.select(axis, taken[0])
        elif taken.step > 0 or len(taken) < 2:
            step = abs(taken.step)
            x = x.narrow(axis, taken.start if taken else 0, (len(taken) - 1) * step + 1 if taken else 0)
            x = x if step == 1 else x[(slice(None),) * axis + (slice(None, None, step),)]
        else:
            x = x.index_select(axis, torch.tensor(taken))
    return x


@prepare("slice_by_index")
def _cut(call: Call) -> Callable[[Tensor], Tensor] | None:
    """A part of the declared shape, between places known at load and in steps of 1, as views along a few axes."""
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    shape = call.shape("x")
    if call.dynamic != ("x",) or not shape or min(shape) < 0:
        return None
    given = {name: call.python(name, None) for name in names}
    ranges = chosen_ranges(shape, **given)
    if any(taken.step != 1 or not taken for taken in ranges):
        return None
    squeezed = given["squeeze_mask"] or [False] * len(shape)
    views: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = []
    for axis in reversed(range(len(shape))):
        taken = ranges[axis]
        if squeezed[axis]:
            views.append((Tensor.select, (axis, taken.start)))
        elif len(taken) != shape[axis]:
            views.append((Tensor.narrow, (axis, taken.start, len(taken))))
    return _views(shape, views, lambda x: slice_by_index(x, **given))


def _views(
    shape: tuple[int, ...],
    views: Sequence[tuple[Callable[..., Tensor], tuple[int, ...]]],
    otherwise: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Takes views one after the other of a tensor of the declared shape, and does something else with any other."""

    def cut(x: Tensor) -> Tensor:
        if x.shape != shape:
            return otherwise(x)
        for view, arguments in views:
            x = view(x, *arguments)
        return x

    return cut


def chosen_ranges(
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None,
    begin_mask: Sequence[bool] | None,
    end_mask: Sequence[bool] | None,
    squeeze_mask: Sequence[bool] | None,
) -> list[range]:
    """Returns the indices of each axis that `slice_by_index` takes, the one index of an axis that is squeezed."""
    ranges = []
    for axis, extent in enumerate(shape):
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        if squeeze_mask and squeeze_mask[axis]:
            at = range(extent)[first or 0]
            ranges.append(range(at, at + 1))
            continue
        last = None if end_mask and end_mask[axis] else end[axis]
        ranges.append(range(extent)[slice(first, last, stride[axis] if stride else 1)])
    return ranges


@op("slice_by_size", exact=True)
def slice_by_size(x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cuts out a part of these extents; -1 runs to the end, a negative beginning counts from it."""
    for axis, (first, extent) in enumerate(zip(begin, size, strict=True)):
        start = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if extent == -1 else extent)
    return x


@prepare("slice_by_size")
def _cut_by_size(call: Call) -> Callable[[Tensor], Tensor] | None:
    """As for `slice_by_index`."""
    shape = call.shape("x")
    if call.dynamic != ("x",) or not shape or min(shape) < 0:
        return None
    begin, size = call.python("begin", None), call.python("size", None)
    views = []
    for axis, (first, wanted, whole) in enumerate(zip(begin, size, shape, strict=True)):
        start = first + whole if first < 0 else first
        extent = whole - start if wanted == -1 else wanted
        if (start, extent) != (0, whole):
            views.append((Tensor.narrow, (axis, start, extent)))
    return _views(shape, views, lambda x: slice_by_size(x, begin, size))


@op("pad", exact=True)
def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Pads the last axes: `pad` holds before and after for each of them, the first of them first."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, x.ndim - len(pairs)):
        index = torch.arange(-before, x.shape[axis] + after)
        last = x.shape[axis] - 1
        if mode == "reflect":
            index = last - (index.abs() - last).abs()
        elif mode == "replicate":
            index = index.clamp(0, last)
        else:
            raise ValueError(f"unknown mode {mode!r}")
        if before or after:
            x = x.index_select(axis, index)
    return x


@op("tile", exact=True)
def tile(x: Tensor, reps: Sequence[int]) -> Tensor:
    """Repeats along each axis."""
    return x.repeat(tuple(reps))


@op("reverse", exact=True)
def reverse(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Turns axes round, all of them where none is named."""
    return x.flip(tuple(range(x.ndim) if axes is None else axes))


@op("reverse_sequence", exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Turns the beginning of each row round.

    Args:
        x: Of any shape.
        lengths: How many elements to turn round in each row, (rows,).
        seq_axis: The axis along which they lie.
        batch_axis: The axis of the rows.
    """
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    place = torch.arange(moved.shape[1])
    length = lengths.long()[:, None]
    order = torch.where(place < length, length - 1 - place, place)
    rows = torch.arange(moved.shape[0])[:, None]
    return moved[rows, order].movedim((0, 1), (batch_axis, seq_axis))


@op("band_part", exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zeroes all but a band around the diagonal of the last two axes; -1 keeps that whole triangle."""
    rows = torch.arange(x.shape[-2])[:, None]
    columns = torch.arange(x.shape[-1])
    keep = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        keep &= rows - columns <= lower
    if upper >= 0:
        keep &= columns - rows <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


@op("fill", exact=True)
def fill(shape: Sequence[int], value: float = 0.0) -> Tensor:
    """Makes a tensor of one value."""
    return torch.full(tuple(shape), value)


@op("fill_like", exact=True)
def fill_like(ref_tensor: Tensor, value: float = 0.0) -> Tensor:
    """Makes a tensor of one value in the shape of another."""
    return torch.full(ref_tensor.shape, value)


@op("range_1d")
def range_1d(start: float, end: float, step: float) -> Tensor:
    """Counts from start to before end."""
    return torch.arange(start, end, step)
