"""Lists of tensors, into which converted loops gather what each turn gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.ops.conversion import named_type
from optimum_ane.runtimes.portable.registry import Each, op
from optimum_ane.runtimes.portable.tensor_list import TensorList


@op("make_list", exact=True)
def make_list(
    init_length: int = 1, dynamic_length: bool = True, elem_shape: Each = (), dtype: str = "fp32"
) -> TensorList:
    """Returns a list of zeros.

    Args:
        init_length: How many.
        dynamic_length: Whether it grows where something is written beyond its end.
        elem_shape: The extents of an element; a string stands for one that the first element written decides.
        dtype: The type of the elements.
    """
    shape = tuple(-1 if isinstance(extent, str) else extent for extent in elem_shape)
    return TensorList.blank(init_length, shape, named_type(dtype).carrier, dynamic_length)


@op("list_length", exact=True)
def list_length(ls: TensorList) -> Tensor:
    """Returns how many elements a list has, written or not."""
    return torch.tensor(len(_checked(ls).elements), dtype=torch.int32)


@op("list_read", exact=True)
def list_read(ls: TensorList, index: int) -> Tensor:
    """Returns an element; zeros where nothing was written."""
    return _checked(ls).read(index)


@op("list_write", exact=True)
def list_write(ls: TensorList, index: int, value: Tensor) -> TensorList:
    """Returns the list with one element replaced."""
    return _checked(ls).written([(index, value)])


@op("list_gather", exact=True)
def list_gather(ls: TensorList, indices: Sequence[int]) -> Tensor:
    """Returns some elements, stacked along a new first axis."""
    picked = [_checked(ls).read(index) for index in indices]
    return torch.stack(picked) if picked else torch.zeros(0, *ls.shape[1:], dtype=ls.dtype)


@op("list_scatter", exact=True)
def list_scatter(ls: TensorList, indices: Sequence[int], value: Tensor) -> TensorList:
    """Returns the list with some elements replaced by the slices of a tensor along its first axis, in order."""
    return _checked(ls).written(zip(indices, value.unbind(), strict=True))


def _checked(ls: TensorList) -> TensorList:
    if not isinstance(ls, TensorList):
        raise ValueError("a tensor stands where a list is needed")
    return ls
