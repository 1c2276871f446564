"""A package's inputs and outputs as its description declares them, and the checks that Core ML makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import InputError, PackageError
from optimum_ane.runtimes.portable.limits import LimitError, check_extents
from optimum_ane.runtimes.portable.values import volume
from optimum_ane.runtimes.session import TensorSpec

# The numbers of `ArrayFeatureType.ArrayDataType` in FeatureTypes.proto.
_ARRAY_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
_INT64_TYPES = ("int64", "uint64", "uint32")


@dataclass(frozen=True)
class Feature:
    """An input or output of a function.

    Attributes:
        spec: Name, default shape and element type.
        shapes: The shapes accepted, where the package enumerates them.
        ranges: The least and the greatest extent of each axis (-1: no limit), where the package gives ranges.
        optional: It may be left out; then `default` stands in.
        default: The value of every element, for an optional input.
    """

    spec: TensorSpec
    shapes: frozenset[tuple[int, ...]] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()
    optional: bool = False
    default: float = 0.0

    def array(self, given: Any) -> np.ndarray:
        """Turns what a caller passed into an array of the declared type.

        Args:
            given: A numpy array, torch tensor, Python number or (nested) list.

        Returns:
            An array of the declared element type and of an accepted shape, in C order. It may be the caller's own.

        Raises:
            InputError: The kind of number, a value, or the shape does not fit.
        """
        name, dtype = self.spec.name, np.dtype(self.spec.dtype)
        plain = not isinstance(given, np.ndarray | np.generic | torch.Tensor)
        array = _numpy(given, name)
        fits = array.dtype.kind in ("biu" if dtype.kind == "i" else "f")
        # A Python number or list has no element type of its own: integers may be meant as floats.
        if not fits and not (plain and dtype.kind == "f" and array.dtype.kind in "biu"):
            raise InputError(f"input {name!r} takes {dtype.name} and got {array.dtype.name}")
        if dtype.kind == "i" and array.dtype != dtype and array.size:
            limits = np.iinfo(dtype)
            low, high = int(array.min()), int(array.max())
            if low < limits.min or high > limits.max:
                raise InputError(f"input {name!r} takes {dtype.name} and got values from {low} to {high}")
        if plain and array.ndim == 0 and volume(self.spec.shape) == 1:
            array = array.reshape(self.spec.shape)
        if not self._accepts(array.shape):
            raise InputError(f"input {name!r} takes shape {self._expected()} and got {tuple(array.shape)}")
        with np.errstate(over="ignore"):  # beyond fp16's range is infinity, as it is on the device
            converted = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)
        # torch warns of memory that it may not write to, although nothing here writes.
        return converted if converted.flags.writeable else converted.copy()

    def filled(self) -> np.ndarray:
        """Returns the array that stands in for an optional input that was left out."""
        return np.full(self.spec.shape, self.default, self.spec.dtype)

    def _accepts(self, shape: tuple[int, ...]) -> bool:
        if self.shapes:
            return shape in self.shapes
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= extent and (high < 0 or extent <= high)
                for extent, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape == self.spec.shape

    def _expected(self) -> str:
        if self.shapes:
            return "one of " + ", ".join(str(shape) for shape in sorted(self.shapes))
        if self.ranges:
            limits = [str(a) if a == b else f"{a}..{b if b >= 0 else ''}" for a, b in self.ranges]
            return f"({', '.join(limits)}{',' if len(limits) == 1 else ''})"
        return str(self.spec.shape)


def _numpy(given: Any, name: str) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        return given.float().numpy() if given.dtype == torch.bfloat16 else given.numpy()
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        raise InputError(f"input {name!r} is not an array: {error}") from error


def read_features(descriptions: Iterable[Any], path: Any) -> dict[str, Feature]:
    """Reads the inputs or outputs of a model's description.

    Args:
        descriptions: `FeatureDescription`s of Model.proto.
        path: The package's path, for messages.

    Returns:
        The features by name, in order.

    Raises:
        PackageError: A kind of feature that an ML Program of tensors does not have (images, sequences).
    """
    features: dict[str, Feature] = {}
    for description in descriptions:
        if description.name in features:
            raise PackageError(f"{path}: {description.name!r} is described twice")
        features[description.name] = _feature(description, path)
    return features


def _feature(description: Any, path: Any) -> Feature:
    name, kind = description.name, description.type.WhichOneof("Type")
    if kind == "multiArrayType" or kind == "stateType":
        array = description.type.multiArrayType if kind == "multiArrayType" else description.type.stateType.arrayType
        dtype = _ARRAY_TYPES.get(array.dataType)
        if dtype is None:
            raise PackageError(f"{path}: {name!r} has element type {array.dataType}, which is unknown")
        flexible = array.WhichOneof("ShapeFlexibility")
        shapes: frozenset[tuple[int, ...]] = frozenset()
        ranges: tuple[tuple[int, int], ...] = ()
        if flexible == "enumeratedShapes":
            shapes = frozenset(tuple(s.shape) for s in array.enumeratedShapes.shapes)
        elif flexible == "shapeRange":
            ranges = tuple((r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges)
        for shape in (tuple(array.shape), *shapes):
            try:
                check_extents(shape, repr(name))
            except LimitError as error:
                raise PackageError(f"{path}: {error}") from error
        default = array.WhichOneof("defaultOptionalValue")
        return Feature(
            TensorSpec(name, tuple(array.shape), dtype),
            shapes,
            ranges,
            description.type.isOptional,
            getattr(array, default) if default else 0.0,
        )
    if kind in ("stringType", "int64Type", "dictionaryType", "doubleType"):
        dtype = {"stringType": "string", "int64Type": "int64", "dictionaryType": "dictionary"}.get(kind, "float64")
        return Feature(TensorSpec(name, (), dtype))
    raise PackageError(f"{path}: {name!r} is {'an ' + kind if kind else 'of no type'}; this runtime takes arrays only")


def describe_function(spec: Any, name: str | None, path: Any) -> tuple[str, Any]:
    """Finds a function and its description: a list of them in packages of several, the model's own elsewhere.

    Args:
        spec: The `Model` protobuf.
        name: The function's name; None takes the default.
        path: The package's path, for messages.

    Returns:
        The name, and what has the `input`, `output` and `state` of the function.

    Raises:
        PackageError: There is no such function.
    """
    description = spec.description
    if not description.functions:
        if name is not None and name not in spec.mlProgram.functions:
            raise PackageError(f"{path}: no function {name!r}; it has: {', '.join(sorted(spec.mlProgram.functions))}")
        return name or "main", description
    name = name or description.defaultFunctionName
    for function in description.functions:
        if function.name == name:
            return name, function
    known = ", ".join(function.name for function in description.functions)
    raise PackageError(f"{path}: no function {name!r}; it has: {known}")
