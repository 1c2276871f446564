"""Operations that pick by index.

A negative index counts from the end. One outside the axis is an error of the prediction, whether or not the program
asks for the check (`validate_indices`): Core ML leaves the result undefined, and a wrong answer helps nobody.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Stored, op


def _wrapped(indices: Tensor, extent: int) -> Tensor:
    """Returns int64 indices from 0 on. Those outside stay outside, for torch to refuse."""
    indices = indices.long()
    return torch.where(indices < 0, indices + extent, indices)


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
    index = _wrapped(indices, x.shape[axis])
    if batch_dims == 0:
        picked = x.index_select(axis, index.reshape(-1))
        return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
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
    return picked.permute(order).reshape(*x.shape[:axis], *inner, *x.shape[axis + 1 :])


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Stored, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Picks an element for each index, along one axis; the other axes of x and indices agree."""
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@op("gather_nd", exact=True)
def gather_nd(x: Stored, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Picks slices by the coordinates along the last axis of `indices`."""
    depth = indices.shape[-1]
    coordinates = [_wrapped(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
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
    order = x.argsort(dim=axis, descending=not ascending, stable=True)
    order = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = x.gather(axis, order)
    return (values, order) if return_indices else (values,)


@op("argsort", exact=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Returns the places of the values in descending order; equal ones stay in order."""
    return x.argsort(dim=axis, descending=not ascending, stable=True)


@op("non_zero", exact=True)
def non_zero(x: Tensor) -> Tensor:
    """Returns the coordinates of the values that are not 0, one row for each."""
    return x.nonzero()
