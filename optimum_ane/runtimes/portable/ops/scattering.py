"""Operations that write by index. The operand is copied first: nothing is written into an argument.

Indices are read as `gathering` reads them. Where an index occurs more than once, the updates are applied in their
order, whatever the number of threads: of several `update`s the last one stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.ops.gathering import checked
from optimum_ane.runtimes.portable.ops.shaping import chosen_ranges
from optimum_ane.runtimes.portable.registry import op

_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


@op("scatter")
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combines slices of `updates` with the slices of `data` that the indices name.

    Args:
        data: Of any shape.
        indices: Integers. MIL's documentation asks for rank 1; its type inference takes any rank, as `gather` does.
        updates: The shape of `data` with that of `indices` in the place of the axis.
        axis: Which axis of `data`.
        mode: `update`, `add`, `sub`, `mul`, `div`, `max` or `min`. MIL's default is `add`, whatever its text says.
        validate_indices: Whether a negative index is an error; one outside the axis always is.
    """
    axis %= data.ndim
    index = checked(indices, data.shape[axis], validate_indices).flatten()
    rows = updates.flatten(axis, axis + indices.ndim - 1) if indices.ndim else updates.unsqueeze(axis)
    return _combined(data.movedim(axis, 0), index, rows.movedim(axis, 0), mode).movedim(0, axis)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combines each element of `updates` with the element of `data` at its index along one axis."""
    axis %= data.ndim
    index = checked(indices, data.shape[axis], validate_indices)
    # Each lane along the axis has its own elements: with the axis last, their places are counted across all lanes.
    index = index.movedim(axis, -1)
    lanes = torch.arange(math.prod(index.shape[:-1])).view(*index.shape[:-1], 1)
    places = index + lanes * data.shape[axis]
    moved = data.movedim(axis, -1)
    combined = _combined(moved.reshape(-1), places.reshape(-1), updates.movedim(axis, -1).reshape(-1), mode)
    return combined.view(moved.shape).movedim(-1, axis)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combines slices of `updates` with the slices of `data` at the coordinates along the last axis of `indices`."""
    depth = indices.shape[-1]
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, extent in enumerate(data.shape[:depth]):
        row = row * extent + checked(indices[..., axis], extent, validate_indices)
    inner = data.shape[depth:]
    rows = data.reshape(math.prod(data.shape[:depth]), *inner)
    return _combined(rows, row.reshape(-1), updates.reshape(row.numel(), *inner), mode).view(data.shape)


def _combined(data: Tensor, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Returns a copy of `data` whose rows at `index` are combined with the rows of `updates`, in order.

    Args:
        data: (rows, ...).
        index: (updates,), int64, all of them rows of `data`.
        updates: (updates, ...).
        mode: As in `scatter`.
    """
    if mode == "update":
        # torch leaves open which of two writes to a row stays; the last one is found first.
        last = torch.full((data.shape[0],), -1).scatter_reduce_(0, index, torch.arange(index.numel()), "amax")
        written = (last >= 0).nonzero().flatten()
        return data.index_copy(0, written, updates.index_select(0, last[written]))
    if mode in ("add", "sub"):
        return data.index_add(0, index, updates, alpha=1 if mode == "add" else -1)
    wide = index.view(-1, *[1] * (updates.ndim - 1)).expand_as(updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(0, wide, updates, "prod")
        return torch.div(data, divisor, rounding_mode=None if data.dtype.is_floating_point else "trunc")
    if mode not in _REDUCTIONS:
        raise ValueError(f"unknown mode {mode!r}")
    return data.scatter_reduce(0, wide, updates, _REDUCTIONS[mode])


@op("slice_update", exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Replaces the part of x that `slice_by_index` would cut out with the same arguments."""
    return write_slice(x.clone(), update, begin, end, stride, begin_mask, end_mask, squeeze_mask)


def write_slice(
    x: Tensor,
    update: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Does what `slice_update` does, in the memory of x, and returns x."""
    ranges = chosen_ranges(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    update = update.reshape([len(taken) for taken in ranges])
    backward = [axis for axis, taken in enumerate(ranges) if taken.step < 0]
    if backward:  # torch has no views of negative stride
        update = update.flip(backward)
        ranges = [taken[::-1] if axis in backward else taken for axis, taken in enumerate(ranges)]
    part = x
    for axis, taken in enumerate(ranges):
        if len(taken) == x.shape[axis]:
            continue
        if taken.step == 1:
            part = part.narrow(axis, taken.start if taken else 0, len(taken))
        else:
            part = part[(slice(None),) * axis + (slice(taken.start, taken.stop, taken.step),)]
    part.copy_(update)
    return x
