"""Operations that move values and compute none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


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
    for axis in reversed(range(x.ndim)):
        if squeeze_mask and squeeze_mask[axis]:
            x = x.select(axis, begin[axis])
            continue
        chosen = slice(
            None if begin_mask and begin_mask[axis] else begin[axis],
            None if end_mask and end_mask[axis] else end[axis],
            stride[axis] if stride else 1,
        )
        taken = range(x.shape[axis])[chosen]
        if taken.step > 0 or len(taken) < 2:
            step = abs(taken.step)
            x = x.narrow(axis, taken.start if taken else 0, (len(taken) - 1) * step + 1 if taken else 0)
            x = x if step == 1 else x[(slice(None),) * axis + (slice(None, None, step),)]
        else:
            x = x.index_select(axis, torch.tensor(taken))
    return x


@op("slice_by_size", exact=True)
def slice_by_size(x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cuts out a part of these extents; -1 runs to the end, a negative beginning counts from it."""
    for axis, (first, extent) in enumerate(zip(begin, size, strict=True)):
        start = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if extent == -1 else extent)
    return x


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
