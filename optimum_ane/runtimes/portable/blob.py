"""The weight file of an ML Program: a header, then one 64-byte record and its data for each array.

The layout is that of coremltools' MIL blob storage, version 2, little-endian:

    file    u32 count, u32 version (2), 56 bytes reserved
    record  u32 0xDEADBEEF, u32 type, u64 size in bytes, u64 offset of the data, u64 bits of padding, 32 bytes reserved

A program refers to an array by the offset of its record.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.values import DType, unpack, volume

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
HEADER_BYTES, RECORD_BYTES, ALIGNMENT = _HEADER.size, _RECORD.size, 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2

# The numbers of `BlobDataType` in coremltools' MIL blob storage; not those of the protobuf.
_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


@dataclass(frozen=True)
class Record:
    """What stands before an array.

    Attributes:
        type: The number of the element type.
        size: Bytes of the array.
        start: Where they begin.
        padding_bits: Bits at the end that belong to no element, for types of less than eight bits.
    """

    type: int
    size: int
    start: int
    padding_bits: int

    def pack(self) -> bytes:
        """Returns it as it is stored."""
        return _RECORD.pack(_SENTINEL, self.type, self.size, self.start, self.padding_bits)


def header(count: int) -> bytes:
    """Returns the header of a file of so many arrays."""
    return _HEADER.pack(count, _VERSION)


class WeightFile:
    """One weight file, memory-mapped: an array costs memory when it is read and not before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._size = path.stat().st_size
            if self._size < HEADER_BYTES:
                raise PackageError(f"{path}: weight file of {self._size} bytes is shorter than its header")
            with path.open("rb") as file:
                # Copy-on-write, so that torch takes the arrays without a warning about read-only memory.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        except OSError as error:
            raise PackageError(f"{path}: cannot read the weight file: {error.strerror or error}") from error
        _, version = _HEADER.unpack(self._bytes[:HEADER_BYTES].tobytes())
        if version != _VERSION:
            raise PackageError(f"{path}: weight file of version {version}; this runtime reads version {_VERSION}")

    def release_pages(self) -> None:
        """Gives back the memory of what was read so far; what is read again comes from the file.

        Weights that were packed for products stand in memory a second time otherwise.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def loader(self, offset: int, dtype: DType, shape: tuple[int, ...], place: str) -> Callable[[], np.ndarray]:
        """Finds one array, and returns what reads it.

        Args:
            offset: Where its record begins.
            dtype: The element type that the program declares.
            shape: The shape that the program declares.
            place: The value's name, for messages.

        Returns:
            A function that returns a view into the mapped file, of `dtype.numpy` and `shape`; for a type of less than
            eight bits a new array at each call, with one element to a byte.

        Raises:
            PackageError: The record is not there, contradicts the program, or points outside the file.
        """
        data = self.stored(offset, dtype, shape, place)[1]
        if dtype.bits < 8:
            return lambda: unpack(data, dtype, shape)
        array = data.view(dtype.numpy).reshape(shape)
        return lambda: array

    def stored(self, offset: int, dtype: DType, shape: tuple[int, ...], place: str) -> tuple[Record, np.ndarray]:
        """Finds one array as it is stored, every number checked before it is used.

        Args:
            offset: Where its record begins.
            dtype: The element type that the program declares.
            shape: The shape that the program declares.
            place: The value's name, for messages.

        Returns:
            Its record, and a view of its bytes in the mapped file, uint8.

        Raises:
            PackageError: The record is not there, contradicts the program, or points outside the file.
        """
        where = f"{self.path}: {place!r}"
        if offset < HEADER_BYTES or offset + RECORD_BYTES > self._size:
            raise PackageError(f"{where} is said to be at byte {offset} of a weight file of {self._size} bytes")
        sentinel, *numbers = _RECORD.unpack(self._bytes[offset : offset + RECORD_BYTES].tobytes())
        record = Record(*numbers)
        if sentinel != _SENTINEL:
            raise PackageError(f"{where}: no record of an array at byte {offset} of the weight file")
        if _TYPES.get(record.type) != dtype.name:
            stored = _TYPES.get(record.type, f"unknown ({record.type})")
            raise PackageError(f"{where} is {dtype.name} in the program and {stored} in the weight file")
        wanted = (volume(shape) * dtype.bits + 7) // 8
        if record.size != wanted:
            raise PackageError(f"{where} of shape {shape} needs {wanted} bytes, the weight file holds {record.size}")
        if record.start % max(1, dtype.numpy.itemsize):
            raise PackageError(f"{where} begins at byte {record.start} of the weight file, between two elements")
        end = record.start + record.size
        if end > self._size:
            raise PackageError(
                f"{where} reaches byte {end} of a weight file of {self._size} bytes: is the file truncated?"
            )
        return record, self._bytes[record.start : end]
