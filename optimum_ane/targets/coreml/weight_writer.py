"""Writes a weight file from arrays of others, each once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from optimum_ane.runtimes.portable.blob import ALIGNMENT, HEADER_BYTES, RECORD_BYTES, Record, header


class WeightWriter:
    """A weight file under way, to be used in a `with` statement.

    Arrays are streamed from where they are mapped; none is copied in memory.
    """

    def __init__(self, path: Path) -> None:
        """Begins a file, which must not exist."""
        self._file = path.open("xb")
        self._file.write(header(0))
        self._end = HEADER_BYTES
        self._written: dict[tuple[int, tuple[int, ...], bytes], int] = {}

    def add(self, record: Record, shape: tuple[int, ...], data: np.ndarray) -> int:
        """Writes an array, unless one of the same type, shape and bytes is there.

        The shape counts although no file states it: what one reader takes as (O, I, 1, 1) and another as (O, I) is
        not shared in coremltools' files either, and no device was seen that shares it.

        Args:
            record: As in the file that it comes from.
            shape: As the program declares it.
            data: The bytes, uint8.

        Returns:
            Where its record begins.
        """
        key = (record.type, shape, hashlib.sha256(data.data).digest())
        if key not in self._written:
            offset = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._file.write(bytes(offset - self._end))
            self._file.write(replace(record, start=offset + RECORD_BYTES).pack())
            self._file.write(data.data)
            self._end = offset + RECORD_BYTES + record.size
            self._written[key] = offset
        return self._written[key]

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._file:
            self._file.write(bytes(-self._end % ALIGNMENT))
            self._file.seek(0)
            self._file.write(header(len(self._written)))
