"""A package's inputs and outputs as its description declares them, and the checks that Core ML makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import InputError, PackageError
from optimum_ane.runtimes.portable.images import (
    LAYOUTS,
    channels,
    check_pixels,
    is_picture,
    picture_shape,
    pixels,
    size_limits,
)
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
            given: A numpy array, torch tensor, Python number or (nested) list; for an image one of PIL's as well.

        Returns:
            An array of the declared element type and of an accepted shape, in C order. It may be the caller's own.

        Raises:
            InputError: The kind of number, a value, or the shape does not fit.
        """
        name, dtype = self.spec.name, np.dtype(self.spec.dtype)
        if self.spec.image:
            return self._image(given)
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
        self._check_shape(array.shape)
        with np.errstate(over="ignore"):  # beyond fp16's range is infinity, as it is on the device
            converted = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)
        # torch warns of memory that it may not write to, although nothing here writes.
        return converted if converted.flags.writeable else converted.copy()

    def _image(self, given: Any) -> np.ndarray:
        """Does what `array` does for an image. What eight bits or fp16 cannot hold never reaches the program."""
        if is_picture(given):
            self._check_shape(picture_shape(given, self.spec))
            array = pixels(given, self.spec.image)
        else:
            array = _numpy(given, self.spec.name)
            self._check_shape(array.shape)
            check_pixels(array, self.spec)
        if self.spec.image == "GRAYSCALE_FLOAT16":
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
        return np.array(array, dtype=self.spec.dtype, order="C")

    def filled(self) -> np.ndarray:
        """Returns the array that stands in for an optional input that was left out."""
        return np.full(self.spec.shape, self.default, self.spec.dtype)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if not self._accepts(shape):
            raise InputError(f"input {self.spec.name!r} takes shape {self._expected()} and got {tuple(shape)}")

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


def read_features(descriptions: Iterable[Any], kind: str, path: Any) -> dict[str, Feature]:
    """Reads the inputs, outputs or states of a model's description.

    Args:
        descriptions: `FeatureDescription`s of Model.proto.
        kind: `"input"`, `"output"` or `"state"`.
        path: The package's path, for messages.

    Returns:
        The features by name, in order. coremltools describes an output that a program returns twice twice; it is one.

    Raises:
        PackageError: A name is described twice; a kind of feature that an ML Program does not have (sequences).
    """
    features: dict[str, Feature] = {}
    for description in descriptions:
        feature = _feature(description, kind, path)
        known = features.setdefault(description.name, feature)
        if known is not feature and kind != "output":
            raise PackageError(f"{path}: {kind} {description.name!r} is described twice")
        if known != feature:
            raise PackageError(f"{path}: {kind} {description.name!r} is described twice, and not alike")
    return features


def _feature(description: Any, kind: str, path: Any) -> Feature:
    name, form = description.name, description.type.WhichOneof("Type")
    if form == "multiArrayType" or form == "stateType":
        array = description.type.multiArrayType if form == "multiArrayType" else description.type.stateType.arrayType
        return _array_feature(description, array, path)
    if form == "imageType":
        return _image_feature(description, kind, path)
    if form in ("stringType", "int64Type", "dictionaryType", "doubleType"):
        dtype = {"stringType": "string", "int64Type": "int64", "dictionaryType": "dictionary"}.get(form, "float64")
        return Feature(TensorSpec(name, (), dtype))
    raise PackageError(
        f"{path}: {name!r} is {'an ' + form if form else 'of no type'}; this runtime takes arrays and images only"
    )


def _array_feature(description: Any, array: Any, path: Any) -> Feature:
    dtype = _ARRAY_TYPES.get(array.dataType)
    if dtype is None:
        raise PackageError(f"{path}: {description.name!r} has element type {array.dataType}, which is unknown")
    flexible = array.WhichOneof("ShapeFlexibility")
    shapes: frozenset[tuple[int, ...]] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()
    if flexible == "enumeratedShapes":
        shapes = frozenset(tuple(s.shape) for s in array.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        ranges = tuple((r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges)
    _check_declared((tuple(array.shape), *shapes), description.name, path)
    default = array.WhichOneof("defaultOptionalValue")
    return Feature(
        TensorSpec(description.name, tuple(array.shape), dtype),
        shapes,
        ranges,
        description.type.isOptional,
        getattr(array, default) if default else 0.0,
    )


def _image_feature(description: Any, kind: str, path: Any) -> Feature:
    """Reads an image.

    The element type of an input is the program's affair; float32, as coremltools has it, stands in for it. Of an
    output whose size follows from the inputs the description tells the least one, which is no shape.
    """
    image = description.type.imageType
    layout = LAYOUTS.get(image.colorSpace)
    if layout is None:
        raise PackageError(f"{path}: {description.name!r} has the colour space {image.colorSpace}, which is unknown")
    first = (1, channels(layout))
    sizes, limits = size_limits(image)
    shape = (*first, image.height, image.width)
    shapes = frozenset((*first, *size) for size in sizes)
    _check_declared((shape, *shapes), description.name, path)
    ranges = () if limits is None else ((1, 1), (first[1], first[1]), *limits)
    if kind == "output":
        dtype = "float32" if layout == "GRAYSCALE_FLOAT16" else "uint8"
        return Feature(TensorSpec(description.name, () if ranges or shapes else shape, dtype, layout))
    spec = TensorSpec(description.name, shape, "float32", layout)
    return Feature(spec, shapes, ranges, description.type.isOptional)


def _check_declared(shapes: Iterable[tuple[int, ...]], name: str, path: Any) -> None:
    for shape in shapes:
        try:
            check_extents(shape, repr(name))
        except LimitError as error:
            raise PackageError(f"{path}: {error}") from error


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
