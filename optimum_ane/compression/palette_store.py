"""Palettes that were found already: functions that share weights are compressed one after another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from optimum_ane.compression.settings import Palettize

Palette = tuple[np.ndarray, np.ndarray]
"""The entries, and the index of each value, uint8, flat and in C order."""


class PaletteStore:
    """Remembers the palette of each weight, or group of channels, under each setting."""

    def __init__(self, file: BinaryIO) -> None:
        """Makes an empty store.

        Args:
            file: An empty file to write to and read from. Indices are kept there: a byte for each weight of a model.
        """
        self._file = file
        self._known: dict[tuple[object, ...], tuple[np.ndarray, int, int]] = {}

    def get(self, values: np.ndarray, settings: Palettize, joint: bool, find: Callable[[], Palette]) -> Palette:
        """Returns the palette of some values.

        Args:
            values: What it is for.
            settings: What is asked for.
            joint: Whether zeros are left out; see `Step.joint`.
            find: Finds it where it is not known yet.
        """
        digest = hashlib.sha256(np.ascontiguousarray(values).data).digest()
        key = (digest, values.dtype.str, values.size, settings.nbits, settings.mode, joint)
        if key not in self._known:
            entries, indices = find()
            self._known[key] = (entries.copy(), self._file.seek(0, 2), indices.size)
            self._file.write(np.ascontiguousarray(indices).data)
            return entries, indices
        entries, start, size = self._known[key]
        self._file.seek(start)
        return entries.copy(), np.frombuffer(bytearray(self._file.read(size)), np.uint8)
