"""Element types, and values that are known when a program is loaded.

An fp16 value is carried as a float32 tensor that was rounded to fp16: a CPU multiplies float32 many times faster, and
a sum of rounded terms in float32 is what the accumulators of the hardware do. uint16 and uint32 are carried in the
next wider signed type, because torch has hardly an operation for them. Types of less than eight bits take a byte.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable import limits


@dataclass(frozen=True)
class DType:
    """An element type of MIL.

    Attributes:
        name: As numpy would call it.
        number: Its number in the protobuf's `DataType`.
        bits: Bits of an element on disk.
        numpy: numpy's type of an element in memory.
        carrier: torch's type of the tensors that carry it through a program.
    """

    name: str
    number: int
    bits: int
    numpy: np.dtype
    carrier: torch.dtype

    @property
    def is_float(self) -> bool:
        """Tells a float from integers and bool."""
        return self.carrier.is_floating_point

    @property
    def is_integer(self) -> bool:
        """Tells an integer from floats and bool."""
        return not self.is_float and self.carrier is not torch.bool


def _dtype(name: str, number: int, bits: int, stored: Any, carrier: torch.dtype) -> DType:
    return DType(name, number, bits, np.dtype(stored), carrier)


_ALL = (
    _dtype("bool", 1, 8, np.bool_, torch.bool),
    _dtype("float16", 10, 16, "<f2", torch.float32),
    _dtype("float32", 11, 32, "<f4", torch.float32),
    _dtype("float64", 12, 64, "<f8", torch.float64),
    _dtype("int8", 21, 8, np.int8, torch.int8),
    _dtype("int16", 22, 16, "<i2", torch.int16),
    _dtype("int32", 23, 32, "<i4", torch.int32),
    _dtype("int64", 24, 64, "<i8", torch.int64),
    _dtype("int4", 25, 4, np.int8, torch.int8),
    _dtype("uint8", 31, 8, np.uint8, torch.uint8),
    _dtype("uint16", 32, 16, "<u2", torch.int32),
    _dtype("uint32", 33, 32, "<u4", torch.int64),
    _dtype("uint4", 35, 4, np.uint8, torch.uint8),
    _dtype("uint2", 36, 2, np.uint8, torch.uint8),
    _dtype("uint1", 37, 1, np.uint8, torch.uint8),
    _dtype("uint6", 38, 6, np.uint8, torch.uint8),
    _dtype("uint3", 39, 3, np.uint8, torch.uint8),
)
_BY_NUMBER = {dtype.number: dtype for dtype in _ALL}
_BY_NAME = {dtype.name: dtype for dtype in _ALL}
_STRING = 2
_MAX_RANK = 16
_MAX_ELEMENTS = 2**40


def by_name(name: str) -> DType:
    """Returns the element type of this name (`"float16"`)."""
    return _BY_NAME[name]


def volume(shape: Sequence[int]) -> int:
    """Returns the number of elements of a shape, as an integer that cannot overflow."""
    return math.prod(shape)


def unpack(data: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Spreads elements of 1 to 6 bits, packed from the lowest bit on and across bytes, to one byte each.

    Args:
        data: The packed bytes, uint8, rank 1.
        dtype: A type of less than eight bits.
        shape: The array's shape.

    Returns:
        An array of `dtype.numpy` (int8 or uint8).
    """
    count, bits = volume(shape), dtype.bits
    # Words of 8 or 12 bits hold whole elements: a table turns a word into the bytes of its elements. Slice by slice,
    # because numpy takes eight bytes for each index of a lookup.
    word = 12 if bits in (3, 6) else 8
    table = _spread_words(word, bits)
    per_word = word // bits
    result = np.empty(-(-count // per_word), table.dtype)
    step = 3 << 16
    for start in range(0, data.size, step):
        words: np.ndarray = data[start : start + step]
        if word == 12:
            triples = np.zeros((-(-words.size // 3), 3), np.uint16)
            triples.reshape(-1)[: words.size] = words
            low, middle, high = triples.T
            words = np.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], 1).reshape(-1)
        first = start * 8 // word
        part = result[first : first + words.size]
        np.take(table, words[: part.size], out=part, mode="clip")
    values = result.view(np.uint8)[:count].reshape(shape)
    if dtype is by_name("int4"):
        values = values.view(np.int8)
        np.subtract(values ^ 8, 8, out=values)  # two's complement
    return values


@functools.cache
def _spread_words(word: int, bits: int) -> np.ndarray:
    """Returns for each word of so many bits its elements, of one byte each, side by side in one unsigned integer."""
    shifts = np.arange(0, word, bits)
    elements = (np.arange(1 << word)[:, None] >> shifts) & ((1 << bits) - 1)
    return elements.astype(np.uint8).view(f"u{len(shifts)}").reshape(-1)


@dataclass(frozen=True)
class TensorType:
    """The declared type of a tensor in a program.

    Attributes:
        dtype: The element type.
        shape: The extents; -1 where one is known only when the program runs.
    """

    dtype: DType
    shape: tuple[int, ...]


def tensor_type(proto: Any, place: str) -> TensorType | None:
    """Reads a declared type.

    Args:
        proto: A `ValueType` of MIL.proto.
        place: The value's name, for messages.

    Returns:
        The tensor's type, that of its contents for a state, or None for strings, lists, tuples and dictionaries.

    Raises:
        PackageError: The element type is unknown, or the shape impossible.
    """
    kind = proto.WhichOneof("type")
    if kind == "stateType":
        return tensor_type(proto.stateType.wrappedType, place)
    if kind != "tensorType" or proto.tensorType.dataType == _STRING:
        return None
    declared = proto.tensorType
    dtype = _BY_NUMBER.get(declared.dataType)
    if dtype is None:
        raise PackageError(f"{place!r} has element type {declared.dataType}, which this runtime does not know")
    if declared.rank > _MAX_RANK or len(declared.dimensions) > _MAX_RANK:
        raise PackageError(f"{place!r} has rank {max(declared.rank, len(declared.dimensions))}, above {_MAX_RANK}")
    shape = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else -1 for d in declared.dimensions)
    if volume([extent for extent in shape if extent > 0]) > _MAX_ELEMENTS:
        raise PackageError(f"{place!r} has shape {shape}, of more than 2**40 elements")
    return TensorType(dtype, shape)


class Constant:
    """A value known when the program is loaded, read when it is first asked for.

    Attributes:
        type: The declared type; None for strings and lists.
        in_file: Whether it lies in the weight file, as it is.
        sources: The constants that a compressed weight is made of; none for one that is stored as it is.
        name: The first name that the program gives it; empty for one that is stated where it is used.
    """

    __slots__ = ("_derived", "_load", "in_file", "name", "sources", "type")

    def __init__(self, type_: TensorType | None, load: Callable[[], Any], in_file: bool = False) -> None:
        """Wraps a value.

        Args:
            type_: The declared type; None for strings and lists.
            load: Returns a numpy array of the declared type and shape, or the string or list.
            in_file: Whether it lies in the weight file, as it is.
        """
        self.type = type_
        self._load = load
        self.in_file = in_file
        self.sources: tuple[Constant, ...] = ()
        self.name = ""
        self._derived: dict[Hashable, Any] = {}

    def derived(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what was made of this value under a key: made once, whoever asks, and kept as long as the value."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def array(self) -> np.ndarray:
        """Returns the array as stored, in numpy's type of the declared one; that of a compressed weight made anew."""
        self._dtype()
        return self._load()

    def stored(self) -> torch.Tensor:
        """Returns the tensor as stored, a view of the weight file where there is one: fp16 stays float16."""
        array = self.array()
        wider = {"uint16": np.int32, "uint32": np.int64}.get(self._dtype().name)
        return torch.from_numpy(np.asarray(array if wider is None else array.astype(wider)))

    def carried(self) -> torch.Tensor:
        """Returns the tensor in the type that carries the declared one, made anew where that is another type.

        It is for a moment's use, of a weight that is about to be packed.
        """
        stored, carrier = self.stored(), self._dtype().carrier
        return stored if stored.dtype == carrier else passing_copy(stored, carrier)

    def tensor(self) -> torch.Tensor:
        """Returns the tensor in the type that carries the declared one, kept for the next who asks."""
        return self.derived("carried", lambda: self.stored().to(self._dtype().carrier))

    def _dtype(self) -> DType:
        if self.type is None:
            raise PackageError("a string or a list stands where a tensor is needed")
        return self.type.dtype

    def python(self) -> Any:
        """Returns a number, bool or string for a scalar, and (nested) lists for the rest."""
        if self.type is None:
            return self._load()
        if volume(self.type.shape) > limits.MAX_PARAMETER:
            # Python's numbers take many times the memory of an array's.
            raise PackageError(
                f"an array of {volume(self.type.shape)} elements stands where a parameter is needed; "
                f"at most {limits.MAX_PARAMETER} are taken"
            )
        return self.stored().tolist()


def passing_copy(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns a contiguous copy of another type that is soon dropped.

    Its memory comes from numpy, for torch's is aligned to 64 bytes: glibc needs a little more than the size for that,
    so that the hole which one weight's copy leaves never takes the next one's, and a model loaded weight by weight
    grew to nearly twice its size.
    """
    blank = torch.empty((), dtype=dtype).numpy().dtype
    return torch.from_numpy(np.empty(tuple(tensor.shape), blank)).copy_(tensor)


def constant(proto: Any, place: str, weights: Callable[[str, int, TensorType, str], Constant]) -> Constant:
    """Makes a constant of a value in the protobuf.

    Args:
        proto: A `Value` of MIL.proto.
        place: The value's name, for messages.
        weights: Returns the array of a file name, offset, type and place.

    Returns:
        The constant; a list of strings or numbers is one as well.

    Raises:
        PackageError: Bytes and declaration disagree.
    """
    kind = proto.WhichOneof("value")
    type_ = tensor_type(proto.type, place)
    if kind == "blobFileValue":
        if type_ is None or min(type_.shape, default=0) < 0:
            raise PackageError(f"{place!r} lies in the weight file and has no fixed shape")
        return weights(proto.blobFileValue.fileName, proto.blobFileValue.offset, type_, place)
    immediate = proto.immediateValue
    form = immediate.WhichOneof("value") if kind == "immediateValue" else None
    if form == "tensor" and type_ is not None:
        array = _immediate(immediate.tensor, type_, place)
        return Constant(type_, lambda: array)
    if form == "tensor":
        strings = list(immediate.tensor.strings.values)
        rank = len(proto.type.tensorType.dimensions)
        if rank == 0 and len(strings) != 1:
            raise PackageError(f"{place!r} should be one string and holds {len(strings)}")
        text: Any = strings[0] if rank == 0 else strings
        return Constant(None, lambda: text)
    if form in ("list", "tuple"):
        items = [constant(item, place, weights).python() for item in getattr(immediate, form).values]
        return Constant(None, lambda: items)
    raise PackageError(f"{place!r} has a value of kind {form or kind!r}, which this runtime does not read")


def _immediate(proto: Any, type_: TensorType, place: str) -> np.ndarray:
    """Reads a `TensorValue`: numbers in a repeated field, or raw bytes for the types that protobuf lacks."""
    count = volume(type_.shape)
    if min(type_.shape, default=0) < 0:
        raise PackageError(f"{place!r} is a constant of unknown shape {type_.shape}")
    field = proto.WhichOneof("value")
    dtype = type_.dtype
    if field == "bytes":
        data = np.frombuffer(proto.bytes.values, np.uint8)
        if data.size != (count * dtype.bits + 7) // 8:
            raise PackageError(f"{place!r} of shape {type_.shape} and type {dtype.name} holds {data.size} bytes")
        if dtype.bits < 8:
            return unpack(data, dtype, type_.shape)
        return data.view(dtype.numpy).reshape(type_.shape).copy()
    if field in ("floats", "ints", "bools", "longInts", "doubles"):
        numbers = getattr(proto, field).values
        if len(numbers) != count:
            raise PackageError(f"{place!r} of shape {type_.shape} holds {len(numbers)} numbers")
        return np.array(numbers).astype(dtype.numpy).reshape(type_.shape)
    if field is None and count == 0:
        return np.zeros(type_.shape, dtype.numpy)
    raise PackageError(f"{place!r} has no readable value for type {dtype.name}")
