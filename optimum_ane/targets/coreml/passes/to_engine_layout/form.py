"""What a value of a program is in the engine's layout: which tensors, and where each of its axes is in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Var

BATCH, CHANNEL, HEIGHT, WIDTH = range(4)
"""The axes of an engine tensor, all of rank 4."""
PARTS = 4
"""The place of an axis that is spread over several tensors: the heads of an attention."""

Pieces = Any
"""A numpy array of `Piece`: numpy's types cannot say what an array of objects holds."""

Place = int | None
"""Where an axis of the original is; None for one of length 1, which needs no place."""


@dataclass(frozen=True)
class Piece:
    """A tensor in the engine's layout, or one of the equal chunks of a tensor.

    Attributes:
        var: The tensor, of rank 4.
        along: The axis of the chunks.
        count: How many chunks the tensor has; 1 for the tensor as it is.
        index: Which chunk it is.
    """

    var: Var
    along: int = CHANNEL
    count: int = 1
    index: int = 0


@dataclass(frozen=True, eq=False)
class Form:
    """A value in the engine's layout.

        original (1, 16, 64)      tokens     1 piece of (1, 64, 1, 16)     places (None, WIDTH, CHANNEL)
        original (1, 4, 16, 32)   4 heads    4 pieces of (1, 32, 1, 16)    places (None, PARTS, WIDTH, CHANNEL)
        original (1, 64, 14, 14)  an image   1 piece of (1, 64, 14, 14)    places (None, CHANNEL, HEIGHT, WIDTH)

    Attributes:
        pieces: The tensors, an array of `Piece` whose axes are those of the original that are spread, in its order.
            A tensor may be named several times, where heads share their keys.
        places: Where each axis of the original is; no two axes share a place, except for `PARTS`. An axis of length 1
            has none.
        shape: The original's shape.
    """

    pieces: Pieces
    places: tuple[Place, ...]
    shape: tuple[int, ...]

    @property
    def spread(self) -> tuple[int, ...]:
        """The axes of the original that are spread over several tensors."""
        return tuple(axis for axis, place in enumerate(self.places) if place == PARTS)

    @property
    def is_single(self) -> bool:
        """Whether the value is one tensor, read whole."""
        return self.pieces.ndim == 0 and self.pieces.item().count == 1

    @property
    def engine_shape(self) -> tuple[int, int, int, int]:
        """The shape of each piece."""
        shape = [1, 1, 1, 1]
        for place, extent in zip(self.places, self.shape, strict=True):
            if place is not None and place != PARTS:
                shape[place] = extent
        return (shape[0], shape[1], shape[2], shape[3])

    def relabelled(self, places: Iterable[Place], shape: Iterable[int], pieces: Pieces | None = None) -> Form:
        """The same tensors for another original."""
        return make_form(self.pieces if pieces is None else pieces, places, shape)


def make_form(pieces: Pieces, places: Iterable[Place], shape: Iterable[int]) -> Form:
    """Makes a form; axes of length 1 lose their place, and `pieces` the axes that were spread over one tensor.

    Args:
        pieces: One axis for each of the original's that is spread.
        places: Where each axis of the original is.
        shape: The original's shape.
    """
    places, shape = tuple(places), tuple(int(extent) for extent in shape)
    extents = [extent for place, extent in zip(places, shape, strict=True) if place == PARTS]
    if list(pieces.shape) != extents:
        raise AssertionError(f"{pieces.shape} tensors for axes of {extents}")
    kept = tuple(None if extent == 1 else place for place, extent in zip(places, shape, strict=True))
    taken = [place for place in kept if place is not None and place != PARTS]
    if len(set(taken)) != len(taken):
        raise AssertionError(f"two axes in one place: {kept}")
    return Form(pieces.reshape([extent for extent in extents if extent != 1]), kept, shape)


def single(var: Var, places: Iterable[Place], shape: Iterable[int]) -> Form:
    """The form of a value that is one tensor."""
    return make_form(array_of([Piece(var)], ()), places, shape)


def array_of(pieces: Sequence[Piece], shape: Sequence[int]) -> Pieces:
    """Pieces as an array of a shape."""
    array = np.empty(len(pieces), dtype=object)
    array[:] = pieces
    return array.reshape(shape)


def free_places(places: Iterable[Place], order: Sequence[int] = (HEIGHT, BATCH, WIDTH, CHANNEL)) -> list[int]:
    """The axes of an engine tensor that no axis of the original is in, in an order of preference."""
    taken = set(places)
    return [place for place in order if place not in taken]


def token_places(shape: Sequence[int]) -> tuple[Place, ...] | None:
    """Places for a value whose last axis is the channel: the others are width, height and batch, from behind.

    An axis that is the original's first of several is the batch. None where there are too many axes.
    """
    places: list[Place] = [None] * len(shape)
    if shape and shape[-1] > 1:
        places[-1] = CHANNEL
    others = [axis for axis in range(len(shape) - 1) if shape[axis] > 1]
    free = [WIDTH, HEIGHT, BATCH]
    if len(others) == 2 and others[0] == 0:
        free = [WIDTH, BATCH]
    if len(others) > len(free):
        return None
    for axis, place in zip(reversed(others), free, strict=False):
        places[axis] = place
    return tuple(places)


def volume(shape: Iterable[int]) -> int:
    """The number of elements."""
    return math.prod(shape)


def filled(source: Sequence[int | None]) -> list[int]:
    """A permutation of the axes, some of which are given; the others take what is left, in order."""
    left = iter(axis for axis in range(len(source)) if axis not in source)
    return [next(left) if axis is None else axis for axis in source]


def coarser(first: Piece, length: int) -> Piece | None:
    """The chunk that a run of chunks is; None where the tensor cannot be split into chunks of that length."""
    if first.count % length or first.index % length:
        return None
    count = first.count // length
    return Piece(first.var) if count == 1 else Piece(first.var, first.along, count, first.index // length)
