"""Compressed weights: the `constexpr_*` operations, decoded bit for bit as coremltools decompresses them.

iOS 16 states their parameters as attributes and packs indices and masks in vectors of bytes; iOS 18 states them as
inputs, has element types of less than eight bits, groups, vectors, and sparse forms with two outputs, and lets one
such operation feed another. Here each becomes a `Constant`: whatever uses it cannot tell it from a plain weight.

A weight is decoded when it is asked for, and not kept: its user packs it or holds it, and between those there is only
the compressed form. Decoding goes slice by slice, because numpy takes eight bytes for each index of a lookup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.values import Constant, TensorType, by_name, unpack, volume

_SLICE = 1 << 18
_SMALL = 64
_INDEX_BITS = (1, 2, 3, 4, 6, 8)
# A file of a few megabytes may state one bit per vector, and one vector that fills it: a bomb. Real ones have 2 to 16.
_MAX_VECTOR = 1024

Arrays = Mapping[str, Constant]
Loader = Callable[[], np.ndarray]


class _Form:
    """One compressed weight: its parameters by name, and the checks that all forms share."""

    def __init__(self, arguments: Arrays, where: str) -> None:
        self.arguments = arguments
        self.where = where

    def type(self, name: str) -> TensorType:
        """Returns the declared type of a tensor parameter that must be there."""
        constant = self.arguments.get(name)
        if constant is None:
            raise PackageError(f"{self.where} lacks {name}")
        if constant.type is None:
            raise PackageError(f"{self.where}: {name} should be a tensor")
        return constant.type

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the declared shape of a tensor parameter."""
        return self.type(name).shape

    def array(self, name: str) -> np.ndarray:
        """Reads a parameter: the array as it is stored, in numpy's type of its declared one."""
        self.type(name)
        return self.arguments[name].array()

    def integers(self, name: str) -> list[int]:
        """Reads a parameter that is one integer or a vector of them."""
        if not self.type(name).dtype.is_integer:
            raise PackageError(f"{self.where}: {name} should be of integers")
        return [int(number) for number in self.array(name).reshape(-1)]

    def axis(self, name: str, rank: int) -> int:
        """Reads a parameter that names an axis, and returns it counted from the front."""
        numbers = self.integers(name)
        if len(numbers) != 1 or not -rank <= numbers[0] < rank:
            raise PackageError(f"{self.where}: {name} is {numbers}, of a tensor of rank {rank}")
        return numbers[0] % rank

    def require(self, condition: bool, says: str) -> None:
        """Raises an error that names the weight unless a condition holds."""
        if not condition:
            raise PackageError(f"{self.where}: {says}")


def decoded(op: str, arguments: Mapping[str, Any], outputs: Sequence[TensorType | None], where: str) -> list[Constant]:
    """Turns a compressed weight into constants.

    Args:
        op: MIL's name, one of `FORMS`.
        arguments: Its parameters.
        outputs: The declared types of its results.
        where: The package, operation and place, for messages.

    Returns:
        One constant for each result. The same for the same compressed arrays, whichever function of the package uses
        them.

    Raises:
        PackageError: A parameter is missing, not known at load, or contradicts the others or the declaration.
    """
    constants: dict[str, Constant] = {}
    for name, argument in arguments.items():
        if not isinstance(argument, Constant):
            raise PackageError(f"{where}: {name} is computed by the program, and a weight is known when it is loaded")
        constants[name] = argument
    owner = max(constants.values(), key=_extent, default=None)
    if owner is None:
        raise PackageError(f"{where} has no parameters")
    key = (op, tuple((name, _identity(constant)) for name, constant in sorted(constants.items())))
    results = owner.derived(key, lambda: _made(op, _Form(constants, where)))
    if [result.type for result in results] != list(outputs):
        stated = ", ".join(_text(type_) for type_ in outputs)
        raise PackageError(f"{where} gives {', '.join(_text(r.type) for r in results)}, and declares {stated}")
    return results


def _made(op: str, form: _Form) -> list[Constant]:
    """Makes the constants, and tells them what they are made of."""
    results = FORMS[op](form)
    given = tuple(form.arguments.values())
    for result in results:
        if result not in given:  # a mask is handed on as it is
            result.sources = given
    return results


def _extent(constant: Constant) -> int:
    return -1 if constant.type is None else volume(constant.type.shape)


def _identity(constant: Constant) -> Any:
    """Returns what equal parameters have in common: small ones their value, an array of the weight file itself."""
    if constant.type is None or volume(constant.type.shape) <= _SMALL:
        return constant.type, str(constant.python())
    return constant


def _text(type_: TensorType | None) -> str:
    return "no tensor" if type_ is None else f"{type_.dtype.name} {type_.shape}"


def _slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yields axis, start and stop of parts of about `_SLICE` elements, along the first axis that can be cut."""
    axis = next((i for i, extent in enumerate(shape) if extent > 1), 0)
    extent = shape[axis]
    step = max(1, _SLICE * extent // max(1, volume(shape)))
    for start in range(0, extent, step):
        yield axis, start, min(start + step, extent)


def _round_into(target: np.ndarray, values: np.ndarray) -> None:
    """Writes float32 values into an array of fp16 or fp32; torch rounds twenty times as fast as numpy."""
    torch.from_numpy(target).copy_(torch.from_numpy(values))


def _affine(form: _Form) -> list[Constant]:
    """Computes (q − zero point) · scale in float32, along one axis or throughout, then rounded to the scale's type."""
    type_, scale = form.type("quantized_data"), form.type("scale")
    rank = len(type_.shape)
    form.require(rank > 0, "quantized_data is a scalar")
    axis = form.axis("axis", rank)
    for name in ("scale", "zero_point"):
        form.require(
            form.shape(name) in ((), (1,), (type_.shape[axis],)),
            f"{name} of shape {form.shape(name)} does not fit axis {axis} of {type_.shape}",
        )
    form.require(scale.dtype.is_float, f"scale is of {scale.dtype.name}")

    def load() -> np.ndarray:
        data = form.array("quantized_data")
        along = [-1 if i == axis else 1 for i in range(rank)]
        factors = form.array("scale").reshape(along)
        zeros = form.array("zero_point").astype(np.float32).reshape(along)
        result = np.empty(type_.shape, scale.dtype.numpy)
        for cut, start, stop in _slices(type_.shape):
            part = (slice(None),) * cut + (slice(start, stop),)
            own = part if cut == axis else ()
            values = data[part].astype(np.float32)
            values -= zeros[own] if zeros.shape[axis] > 1 else zeros
            with np.errstate(over="ignore", invalid="ignore"):
                values *= factors[own] if factors.shape[axis] > 1 else factors
            _round_into(result[part], values)
        return result

    return [Constant(TensorType(scale.dtype, type_.shape), load)]


def _cast(form: _Form) -> list[Constant]:
    """fp16 as fp32."""
    source, target = form.type("source_val"), form.arguments.get("output_dtype")
    name = None if target is None else {"fp32": "float32", "fp16": "float16"}.get(str(target.python()))
    if name is None or not source.dtype.is_float:
        raise PackageError(f"{form.where}: cannot be cast from {source.dtype.name}")
    type_ = TensorType(by_name(name), source.shape)
    return [Constant(type_, lambda: form.array("source_val").astype(type_.dtype.numpy))]


def _lut(form: _Form) -> list[Constant]:
    """Looks indices up in a table: of iOS 16 packed in bytes, of iOS 18 with groups and vectors."""
    return _packed_lut(form) if "shape" in form.arguments else [_grouped_lut(form, form.type("indices"), "indices")]


def _packed_lut(form: _Form) -> list[Constant]:
    """One table for the whole tensor; the indices are packed from the lowest bit on, in a vector of bytes."""
    table, shape = form.type("lut"), tuple(form.integers("shape"))
    form.require(len(table.shape) == 1 and table.shape[0] > 1, f"lut of shape {table.shape}")
    bits = table.shape[0].bit_length() - 1
    form.require(table.shape[0] == 2**bits and bits in _INDEX_BITS, f"lut of {table.shape[0]} values")
    packed = _packed_bytes(form, "indices", shape, bits)

    def load() -> np.ndarray:
        indices = packed()
        result = np.empty(shape, table.dtype.numpy)
        flat, values = result.reshape(-1), form.array("lut")
        for start in range(0, flat.size, _SLICE):
            np.take(values, indices[start : start + _SLICE], out=flat[start : start + _SLICE], mode="clip")
        return result

    return [Constant(TensorType(table.dtype, shape), load)]


def _packed_bytes(form: _Form, name: str, shape: tuple[int, ...], bits: int) -> Loader:
    """Checks a vector of packed bytes against the shape of what it holds; returns what reads it, uint8 of rank 1."""
    count = volume(shape)
    wanted, given = (count * bits + 7) // 8, form.shape(name)
    form.require(form.type(name).dtype.name == "uint8", f"{name} is of {form.type(name).dtype.name}")
    form.require(given == (wanted,), f"{name} has shape {given}, and a weight of shape {shape} needs {wanted} bytes")
    if bits == 8:
        return lambda: form.array(name)
    return lambda: unpack(form.array(name), by_name(f"uint{bits}"), (count,))


def _grouped_lut(form: _Form, indices: TensorType, name: str, read: Loader | None = None) -> Constant:
    """Looks indices up in tables of shape (groups of axis 0, groups of axis 1, …, entries, vector).

    Args:
        form: The weight.
        indices: The type of the indices.
        name: The parameter that holds them, for messages, and for reading them where `read` is None.
        read: Returns the indices, uint8, in their shape.
    """
    table, shape = form.type("lut"), indices.shape
    rank = len(shape)
    form.require(
        len(table.shape) == rank + 2 and rank > 0, f"lut of rank {len(table.shape)} for {name} of rank {rank}"
    )
    *groups, entries, vector = table.shape
    blocks = _blocks(form, "lut", shape, groups)
    form.require(indices.dtype.name.startswith("uint"), f"{name} is of {indices.dtype.name}")
    form.require(entries == 2**indices.dtype.bits, f"lut of {entries} values for indices of {indices.dtype.name}")
    form.require(0 < vector <= _MAX_VECTOR, f"vectors of {vector}; at most {_MAX_VECTOR} are read")
    axis = form.axis("vector_axis", rank) if vector > 1 else 0
    expanded = tuple(extent * vector if i == axis else extent for i, extent in enumerate(shape))

    def load() -> np.ndarray:
        data = form.array(name) if read is None else read()
        values = form.array("lut").reshape(-1, vector)
        result = np.empty(expanded, table.dtype.numpy)
        # The vector's elements stand next to each other along its axis.
        view = result.reshape(*shape[: axis + 1], vector, *shape[axis + 1 :])
        for cut, start, stop in _slices(shape):
            part = (slice(None),) * cut + (slice(start, stop),)
            target = (slice(None),) * (cut + (cut > axis)) + (slice(start, stop),)
            rows = np.zeros((1,) * rank, np.int64)
            for i, (block, groups_of_axis) in enumerate(zip(blocks, groups, strict=True)):
                span = np.arange(start, stop) if i == cut else np.arange(shape[i])
                rows = rows * groups_of_axis
                if groups_of_axis > 1:
                    rows = rows + (span // block).reshape([-1 if j == i else 1 for j in range(rank)])
            view[target] = np.moveaxis(values.take(rows * entries + data[part], 0), -1, axis + 1)
        return result

    return Constant(TensorType(table.dtype, expanded), load)


def _blocks(form: _Form, name: str, shape: tuple[int, ...], groups: Sequence[int]) -> list[int]:
    """Returns how many elements of each axis share one group."""
    fits = len(groups) == len(shape) and all(
        group > 0 and extent % group == 0 for extent, group in zip(shape, groups, strict=True)
    )
    form.require(fits, f"{name} has {tuple(groups)} groups, which do not divide {shape}")
    return [extent // group for extent, group in zip(shape, groups, strict=True)]


def _shift_scale(form: _Form) -> list[Constant]:
    """Multiplies: scale · (data − offset), one scale and offset for each block."""
    return [_blockwise(form, form.type("data"), "data")]


def _blockwise(form: _Form, data: TensorType, name: str, read: Loader | None = None) -> Constant:
    """Computes scale · (data − offset) in the scale's type, that of a float offset where it is wider.

    Args:
        form: The weight.
        data: The type of the data.
        name: The parameter that holds them, for reading them where `read` is None.
        read: Returns the data, in their type and shape.
    """
    scale, shape = form.type("scale"), data.shape
    form.require(len(shape) > 0, f"{name} is a scalar")
    form.require(scale.dtype.is_float, f"scale is of {scale.dtype.name}")
    blocks = _blocks(form, "scale", shape, scale.shape)
    shifted = "offset" in form.arguments
    if shifted:
        form.require(form.shape("offset") == scale.shape, f"offset {form.shape('offset')} and scale {scale.shape}")

    def load() -> np.ndarray:
        values = form.array(name) if read is None else read()
        factors = form.array("scale")
        offsets = form.array("offset") if shifted else None
        result = np.empty(shape, scale.dtype.numpy)
        for cut, start, stop in _slices(shape):
            part = (slice(None),) * cut + (slice(start, stop),)
            rows = np.arange(start, stop) // blocks[cut]
            split = [
                extent
                for i, (groups, block) in enumerate(zip(scale.shape, blocks, strict=True))
                for extent in ((stop - start, 1) if i == cut else (groups, block))
            ]
            # Each axis becomes (group, place in it), so that scales broadcast; on the one cut each row has its own.
            own = [extent for i, groups in enumerate(scale.shape) for extent in (len(rows) if i == cut else groups, 1)]
            # Float32 stands in for fp16 arithmetic: it holds integers, their differences and the products exactly, and
            # rounding what it cannot hold twice changes nothing, as it has more than twice the digits.
            cast = values[part]
            if values.dtype.kind == "f":
                cast = cast.astype(scale.dtype.numpy)
            cast = cast.astype(np.float32).reshape(split)
            with np.errstate(over="ignore", invalid="ignore"):
                if offsets is not None:
                    cast -= offsets.take(rows, cut).reshape(own)
                    if offsets.dtype == scale.dtype.numpy == np.float16:
                        cast = cast.astype(np.float16).astype(np.float32)
                cast *= factors.take(rows, cut).reshape(own)
            _round_into(result[part], cast.reshape(result[part].shape))
        return result

    return Constant(TensorType(scale.dtype, shape), load)


def _sparse(form: _Form) -> list[Constant]:
    """Puts the values that are not zero where a mask has its ones, in row-major order."""
    values = form.type("nonzero_data")
    form.require(len(values.shape) == 1, f"nonzero_data of shape {values.shape}")
    if "shape" in form.arguments:
        shape = tuple(form.integers("shape"))
        mask = _packed_bytes(form, "mask", shape, 1)
    else:
        shape = _mask(form, "mask")
        mask = lambda: form.array("mask")  # noqa: E731
    return [Constant(TensorType(values.dtype, shape), lambda: _densified(form, mask, shape, "nonzero_data"))]


def _mask(form: _Form, name: str) -> tuple[int, ...]:
    """Checks a mask of iOS 18 and returns its shape."""
    type_ = form.type(name)
    form.require(type_.dtype.name == "uint1", f"{name} is of {type_.dtype.name}")
    return type_.shape


def _densified(form: _Form, mask: Loader, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Spreads values over a dense array of zeros.

    Args:
        form: The weight.
        mask: Returns zeros and ones, in any shape of as many elements as `shape`.
        shape: The shape of the result.
        name: The parameter that holds the values.
    """
    places = mask().reshape(-1).view(np.bool_)
    values = form.array(name)
    ones = int(np.count_nonzero(places))
    form.require(ones == values.size, f"{name} holds {values.size} values, and the mask has {ones} ones")
    result = np.zeros(places.size, values.dtype)
    result[places] = values.reshape(-1)
    return result.reshape(shape)


def _sparse_pair(
    form: _Form, mask_name: str, data_name: str, dense: Callable[[TensorType, Loader], Constant]
) -> list[Constant]:
    """Decodes the values under a mask, in three steps: spread, decode, pick.

    Args:
        form: The weight.
        mask_name: The parameter that holds the mask.
        data_name: The parameter that holds the values under it.
        dense: Decodes a dense array, of the type and read by the loader that it is given.

    Returns:
        The mask, repeated where vectors widen it, and the decoded values under it.
    """
    shape, values = _mask(form, mask_name), form.type(data_name)
    form.require(len(values.shape) == 1, f"{data_name} of shape {values.shape}")

    def spread() -> np.ndarray:
        return _densified(form, lambda: form.array(mask_name), shape, data_name)

    whole = dense(TensorType(values.dtype, shape), spread)
    assert whole.type is not None
    wide = whole.type.shape
    width = math.prod(wide) // max(1, math.prod(shape))
    axis = next((i for i, (a, b) in enumerate(zip(wide, shape, strict=True)) if a != b), 0)

    def mask() -> np.ndarray:
        given = form.array(mask_name)
        return given if width == 1 else np.repeat(given, width, axis)

    def picked() -> np.ndarray:
        return whole.array()[mask().view(np.bool_)]

    mask_constant = form.arguments[mask_name] if width == 1 else Constant(TensorType(by_name("uint1"), wide), mask)
    return [mask_constant, Constant(TensorType(whole.type.dtype, (values.shape[0] * width,)), picked)]


def _sparse_lut(form: _Form) -> list[Constant]:
    """Looks up the indices under a mask."""
    name = "indices_nonzero_data"
    return _sparse_pair(form, "indices_mask", name, lambda type_, read: _grouped_lut(form, type_, name, read))


def _sparse_shift_scale(form: _Form) -> list[Constant]:
    """Shifts and scales the values under a mask."""
    return _sparse_pair(
        form, "data_mask", "nonzero_data", lambda type_, read: _blockwise(form, type_, "nonzero_data", read)
    )


FORMS: Mapping[str, Callable[[_Form], list[Constant]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut,
    "constexpr_lut_to_sparse": _sparse_lut,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
    "constexpr_sparse_to_dense": _sparse,
}
