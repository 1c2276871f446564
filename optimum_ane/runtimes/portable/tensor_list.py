"""A list of tensors, which `make_list` makes and converted loops write into."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optimum_ane.runtimes.portable import limits
from optimum_ane.runtimes.portable.limits import LimitError


@dataclass(frozen=True, eq=False)
class TensorList:
    """A list of tensors of one shape and type. Nothing writes into one: writing makes another.

    Attributes:
        elements: The tensors; None where nothing was written, which reads as zeros.
        element_shape: The shape of each; -1 for an extent that the first tensor written decides.
        dtype: What carries the declared element type.
        grows: Whether a place beyond the end may be written.
    """

    elements: tuple[Tensor | None, ...]
    element_shape: tuple[int, ...]
    dtype: torch.dtype
    grows: bool

    @classmethod
    def blank(cls, length: int, element_shape: tuple[int, ...], dtype: torch.dtype, grows: bool) -> TensorList:
        """Returns a list of which nothing is written.

        Raises:
            LimitError: It is too long.
        """
        check_length(length)
        return cls((None,) * length, element_shape, dtype, grows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all elements stacked, an unknown one counted as 1."""
        return len(self.elements), *(abs(extent) for extent in self.element_shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements, written or not."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, index: int) -> Tensor:
        """Returns the element at an index.

        Raises:
            IndexError: The index lies outside.
            ValueError: Nothing was written there, and the shape is not known.
        """
        if not 0 <= index < len(self.elements):
            raise IndexError(f"index {index} is outside a list of {len(self.elements)}")
        element = self.elements[index]
        if element is not None:
            return element
        if -1 in self.element_shape:
            raise ValueError(f"nothing was written at {index}, and the shape {self.element_shape} is not known")
        return torch.zeros(self.element_shape, dtype=self.dtype)

    def written(self, changes: Iterable[tuple[int, Tensor]]) -> TensorList:
        """Returns the list with some elements replaced, by copies, so that no larger tensor is kept alive.

        Raises:
            IndexError: An index is negative, or beyond the end of a list that does not grow.
            LimitError: The list would be too long.
            ValueError: A tensor has not the shape of the others.
        """
        elements, shape = list(self.elements), self.element_shape
        for index, value in changes:
            if index < 0 or (index >= len(elements) and not self.grows):
                raise IndexError(f"index {index} is outside a list of {len(elements)}")
            extents = tuple(value.shape)
            if len(extents) != len(shape) or any(a not in (-1, b) for a, b in zip(shape, extents, strict=True)):
                raise ValueError(f"an element of shape {extents} in a list of shapes {shape}")
            shape = extents
            if index >= len(elements):
                check_length(index + 1)
                elements += [None] * (index + 1 - len(elements))
            elements[index] = value.to(self.dtype, copy=True, memory_format=torch.contiguous_format)
        return replace(self, elements=tuple(elements), element_shape=shape)


def check_length(length: int) -> None:
    """Refuses a length that is impossible or takes too much: each element is an object of Python.

    Raises:
        LimitError: It is.
    """
    if not 0 <= length <= limits.MAX_PARAMETER:
        raise LimitError(f"a list of {length} elements; at most {limits.MAX_PARAMETER} are taken")
