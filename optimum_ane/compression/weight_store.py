"""Weights that were compressed already: functions and programs that share them are compressed one after another."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Arrays = tuple[np.ndarray | None, ...]
"""What a weight becomes: a palette and its indices, say, or integers, scales and no zero points."""


class _Place(NamedTuple):
    """Where an array lies in the file."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class WeightStore:
    """Remembers what each weight, or group of its channels, becomes under each setting."""

    def __init__(self, file: BinaryIO) -> None:
        """Makes an empty store.

        Args:
            file: An empty file to write to and read from: a byte or less for each weight of a model is kept there.
        """
        self._file = file
        self._known: dict[tuple[object, ...], tuple[_Place | None, ...]] = {}

    def get(self, values: np.ndarray, how: tuple[object, ...], find: Callable[[], Arrays]) -> Arrays:
        """Returns what some values become.

        Args:
            values: The values.
            how: All else that it depends on.
            find: Finds it where it is not known yet.

        Returns:
            Arrays of the caller's own.
        """
        digest = hashlib.sha256(np.ascontiguousarray(values).data).digest()
        key = (digest, values.dtype.str, values.size, *how)
        if key not in self._known:
            found = find()
            self._known[key] = tuple(None if array is None else self._write(array) for array in found)
            return found
        return tuple(None if place is None else self._read(place) for place in self._known[key])

    def _write(self, array: np.ndarray) -> _Place:
        start = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(array).data)
        # coremltools keeps in a dtype's metadata that bytes hold integers of four bits.
        return _Place(start, array.dtype, array.shape)

    def _read(self, place: _Place) -> np.ndarray:
        self._file.seek(place.start)
        size = int(np.prod(place.shape)) * place.dtype.itemsize
        return np.frombuffer(bytearray(self._file.read(size)), place.dtype).reshape(place.shape)


@contextlib.contextmanager
def quantized_once(store: WeightStore | None) -> Iterator[None]:
    """While the block runs, coremltools quantizes each weight once; None lets it quantize all."""
    from coremltools.optimize import _utils

    quantize = _utils.compute_qparams_by_dtype

    def remembered(weight: np.ndarray, dtype: Any, mode: str, block_sizes: list[int]) -> Any:
        """Takes and returns what `compute_qparams_by_dtype` does: integers, scales and zero points, or None."""
        assert store is not None
        how = ("quantize", str(dtype), mode, tuple(block_sizes), weight.shape)
        # Where no whole number of blocks fits it returns None in place of three arrays.
        found = store.get(weight, how, lambda: quantize(weight, dtype, mode, block_sizes) or ())
        return found or None

    if store is not None:
        _utils.compute_qparams_by_dtype = remembered
    try:
        yield
    finally:
        _utils.compute_qparams_by_dtype = quantize
