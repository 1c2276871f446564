"""Operations that pick by index.

A negative index counts from the end, as iOS 15 and 16 have it; iOS 17 calls it outside the axis, and it is an error
where the program asks for the check (`validate_indices`). An index outside the axis is an error whether or not the
program asks: Core ML leaves the result undefined, and a wrong answer helps nobody.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Stored, op


def checked(indices: Tensor, extent: int, validate: bool) -> Tensor:
    """Returns int64 indices, all of them from 0 to `extent` − 1.

    Args:
        indices: Integers of any shape.
        extent: That of the axis.
        validate: Whether a negative index is an error as well.

    Raises:
        IndexError: An index lies outside.
    """
    indices = indices.long()
    if not indices.numel():
        return indices
    least, most = (int(bound) for bound in indices.aminmax())
    if least < (0 if validate else -extent) or most >= extent:
        raise IndexError(f"index {most if most >= extent else least} is outside an axis of {extent}")
    return torch.where(indices < 0, indices + extent, indices) if least < 0 else indices


@op("gather", exact=True)
def gather(x: Stored, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Picks slices along an axis: the shape of `indices` takes the place of that axis.

    Args:
        x: The table. Where it is a constant of fp16, only the rows picked leave the weight file.
        indices: Integers of any rank; the first `batch_dims` axes run along those of x.
        axis: Which axis of x.
        batch_dims: How many leading axes x and indices have in common.
        validate_indices: See the module's docstring.
    """
    axis %= x.ndim
    index = checked(indices, x.shape[axis], validate_indices)
    if batch_dims == 0:
        picked = x.index_select(axis, index.reshape(-1))
        return picked.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    # Batches go first and are flattened; then each row of x is picked from by the same row of indices.
    batch = math.prod(x.shape[:batch_dims])
    table = x.reshape(batch, *x.shape[batch_dims:]).movedim(axis - batch_dims + 1, 1)
    rows = index.reshape(batch, -1)
    picked = table[torch.arange(batch)[:, None], rows]
    inner = index.shape[batch_dims:]
    picked = picked.reshape(batch, *inner, *table.shape[2:])
    before = axis - batch_dims
    order = [0, *range(1 + len(inner), 1 + len(inner) + before), *range(1, 1 + len(inner))]
    order += range(1 + len(inner) + before, picked.ndim)
    return picked.permute(order).reshape((*x.shape[:axis], *inner, *x.shape[axis + 1 :]))


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Stored, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Picks an element for each index, along one axis; the other axes of x and indices agree."""
    return torch.gather(x, axis, checked(indices, x.shape[axis], validate_indices))


@op("gather_nd", exact=True)
def gather_nd(x: Stored, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Picks slices by the coordinates along the last axis of `indices`."""
    depth = indices.shape[-1]
    coordinates = [checked(indices[..., i], x.shape[batch_dims + i], validate_indices) for i in range(depth)]
    rank = indices.ndim - 1
    batch = [
        torch.arange(extent).view(*[1] * i, -1, *[1] * (rank - i - 1)) for i, extent in enumerate(x.shape[:batch_dims])
    ]
    return x[(*batch, *coordinates)]


@op("one_hot", exact=True)
def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int = -1, on_value: float = 1.0, off_value: float = 0.0
) -> Tensor:
    """Adds an axis that is `on_value` at the index and `off_value` elsewhere; everywhere for an index outside."""
    hit = indices.long()[..., None] == torch.arange(one_hot_vector_size)
    return torch.where(hit.movedim(-1, axis), torch.tensor(on_value), torch.tensor(off_value))


@op("topk", exact=True)
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """Returns the k largest (smallest: `ascending`) values in order and, if asked, where they stand; k = -1 is all."""
    order = _order(x, axis, ascending)
    order = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = x.gather(axis, order)
    return (values, order) if return_indices else (values,)


@op("argsort", exact=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Returns the places of the values in descending order; equal ones stay in order."""
    return _order(x, axis, ascending)


def _order(x: Tensor, axis: int, ascending: bool) -> Tensor:
    """Sorts stably; a NaN comes last either way, as in coremltools' value inference."""
    if x.dtype.is_floating_point and not ascending:
        return (-x).argsort(dim=axis, stable=True)
    return x.argsort(dim=axis, descending=not ascending, stable=True)


@op("non_zero", exact=True)
def non_zero(x: Tensor) -> Tensor:
    """Returns the coordinates of the values that are not 0, one row for each."""
    return x.nonzero()
