"""Reductions over axes, all of them where none is given, and sums along one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor], *, exact: bool = False) -> None:
    """Registers a reduction: `function` takes the tensor, at least one axis, and whether to keep them."""

    @op(name, exact=exact)
    def reduce(x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
        chosen = list(range(x.ndim)) if axes is None else [int(axis) for axis in axes]
        return function(x, chosen, keep_dims) if x.ndim else function(x[None], [0], False)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x if x.dtype.is_floating_point else x.double()).mean(axes, keepdim=keep)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _root_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # Of integers the root is no integer; the declared type truncates it in the end.
    return (x if x.dtype.is_floating_point else x.double()).square().sum(axes, keepdim=keep).sqrt()


_reduction("reduce_sum", lambda x, axes, keep: x.sum(axes, keepdim=keep))
_reduction("reduce_mean", _mean)
_reduction("reduce_prod", _product)
_reduction("reduce_max", lambda x, axes, keep: x.amax(axes, keepdim=keep), exact=True)
_reduction("reduce_min", lambda x, axes, keep: x.amin(axes, keepdim=keep), exact=True)
_reduction("reduce_l1_norm", lambda x, axes, keep: x.abs().sum(axes, keepdim=keep))
_reduction("reduce_l2_norm", _root_of_squares)
_reduction("reduce_sum_square", lambda x, axes, keep: x.square().sum(axes, keepdim=keep))
_reduction("reduce_log_sum", lambda x, axes, keep: x.sum(axes, keepdim=keep).log())
_reduction("reduce_log_sum_exp", lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep))


@op("reduce_argmax", exact=True)
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Returns where the largest value stands, the first of equals; the declared type is `output_dtype` already."""
    return x.argmax(axis, keepdim=keep_dims)


@op("reduce_argmin", exact=True)
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Returns where the smallest value stands, the first of equals; the declared type is `output_dtype` already."""
    return x.argmin(axis, keepdim=keep_dims)


@op("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Sums along an axis; exclusive leaves out the element itself, reverse starts at the end."""
    if reverse:
        x = x.flip(axis)
    total = x.cumsum(axis)
    if exclusive and total.shape[axis]:
        first = torch.zeros_like(total.narrow(axis, 0, 1))
        total = torch.cat([first, total.narrow(axis, 0, total.shape[axis] - 1)], axis)
    return total.flip(axis) if reverse else total
