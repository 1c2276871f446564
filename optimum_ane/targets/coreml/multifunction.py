"""Several functions in one `.mlpackage` over one copy of their weights, and one function taken out of several.

`coremltools.utils.save_multifunction` does the former as well: it reads each program into its own representation,
compares all weights in memory and writes everything anew, which takes seven to fifteen times as long, refuses the
palettes of iOS 16, and drops author, licence and entries. Here functions are copied as they are and weights from file
to file; the result is the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.errors import PackageError, UnsupportedModelError
from optimum_ane.package.deployment_targets import is_older
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import TensorType, tensor_type
from optimum_ane.targets.coreml.package_files import WEIGHTS_IN_PROGRAM, write_package
from optimum_ane.targets.coreml.weight_writer import WeightWriter

MAIN = "main"
"""The name of the function of a program that has one."""

TARGET = "iOS18"
"""The oldest that reads several functions."""

_SPECIFICATION_VERSION = 9
"""That of `TARGET`."""

_FEATURES = ("input", "output", "state")
_PREDICTED = ("predictedFeatureName", "predictedProbabilitiesName")


def check_several_functions(target: str) -> None:
    """Refuses a deployment target that reads one function only.

    Raises:
        UnsupportedModelError: It is older than iOS 18.
    """
    if is_older(target, TARGET):
        raise UnsupportedModelError(
            f"several functions in one program need {TARGET} and the deployment target is {target}; raise it, or "
            "export each function to a package of its own"
        )


def functions_of(specification: Any) -> tuple[str, ...]:
    """The names of a program's functions, the default one first; `specification` is the `Model` protobuf."""
    names = [function.name for function in specification.description.functions] or [MAIN]
    default = specification.description.defaultFunctionName or names[0]
    return (default, *(name for name in names if name != default))


def merge_functions(sources: Mapping[str, Path], target: Path, *, default: str) -> None:
    """Writes one package of the functions of several.

    A weight of the same type, shape and bytes is there once. What a package says of itself, author and entries, is
    taken from the package of the default function; what inputs and outputs mean, from each function's own.

    Args:
        sources: Packages of one function, for iOS 18 or later, by the names that the functions are to have.
        target: The `.mlpackage` to write; its directory exists, it does not.
        default: The function that is loaded by default.

    Raises:
        PackageError: A package is damaged or has several functions, or they are for different systems.
        UnsupportedModelError: A package is for a system that knows one function only.
        OSError: The result could not be written.
    """
    packages = {name: Package(path) for name, path in sources.items()}
    versions = {name: package.spec.specificationVersion for name, package in packages.items()}
    if min(versions.values()) < _SPECIFICATION_VERSION:
        raise UnsupportedModelError(
            f"{sources[min(versions, key=lambda name: versions[name])]} is for a system older than {TARGET}, which "
            f"reads one function only; export for {TARGET} or later"
        )
    merged = type(packages[default].spec)()
    merged.specificationVersion = max(versions.values())
    merged.description.metadata.CopyFrom(packages[default].spec.description.metadata)
    merged.description.defaultFunctionName = default
    program = packages[default].spec.mlProgram
    merged.mlProgram.version = program.version
    for name, value in program.attributes.items():
        merged.mlProgram.attributes[name].CopyFrom(value)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="weights-") as folder:
        file = Path(folder) / "weight.bin"
        with WeightWriter(file) as weights:
            for name, package in packages.items():
                if functions_of(package.spec) != (MAIN,):
                    raise PackageError(f"{package.path} has the functions {', '.join(functions_of(package.spec))}")
                function = merged.mlProgram.functions[name]
                function.CopyFrom(package.spec.mlProgram.functions[MAIN])
                # Opened anew, so that its weights are mapped no longer than they are copied.
                _move_weights(function, Package(package.path), weights)
                described = merged.description.functions.add(name=name)
                _copy_description(package.spec.description, described)
        _check_opsets(merged, target)
        write_package(merged, file, target)


@dataclass(frozen=True)
class Unshared:
    """A weight that not all functions of a program read from one place.

    Attributes:
        name: What the first function that reads it calls it.
        functions: Those that read it.
        stored_bytes: Of the weight in the file.
    """

    name: str
    functions: tuple[str, ...]
    stored_bytes: int


def unshared_weights(source: Path) -> tuple[Unshared, ...]:
    """Lists what functions do not share: weights of one alone, and what two hold in different forms; largest first.

    Args:
        source: The package; of one function, nothing is listed.

    Raises:
        PackageError: The package is damaged.
    """
    package = Package(source)
    functions = functions_of(package.spec)
    readers: dict[tuple[str, int], list[str]] = {}
    known: dict[tuple[str, int], tuple[str, int]] = {}
    for name in functions:
        for block in package.spec.mlProgram.functions[name].block_specializations.values():
            for place, type_, blob in _blobs(block, package):
                key = blob.fileName, blob.offset
                record, _ = package.weight_file(blob.fileName, place).stored(
                    blob.offset, type_.dtype, type_.shape, place
                )
                known.setdefault(key, (place, record.size))
                if name not in readers.setdefault(key, []):
                    readers[key].append(name)
    found = [Unshared(known[key][0], tuple(names), known[key][1]) for key, names in readers.items()]
    return tuple(
        sorted((each for each in found if len(each.functions) < len(functions)), key=lambda each: -each.stored_bytes)
    )


def split_function(source: Path, name: str, target: Path) -> None:
    """Writes a package of one function, called `main`, out of a package of several.

    Args:
        source: The package; it may be one of a single function, which is then called `main`.
        name: Which function.
        target: The `.mlpackage` to write; its directory exists, it does not.

    Raises:
        PackageError: The package is damaged, or has no such function.
        OSError: The result could not be written.
    """
    package = Package(source)
    specification = package.spec
    if name not in functions_of(specification) or name not in specification.mlProgram.functions:
        raise PackageError(f"{source} has no function {name!r}; it has {', '.join(functions_of(specification))}")
    single = type(specification)()
    single.CopyFrom(specification)
    del single.description.functions[:]
    single.description.defaultFunctionName = ""
    for described in specification.description.functions:
        if described.name == name:
            _copy_description(described, single.description)
    single.mlProgram.functions.clear()
    function = single.mlProgram.functions[MAIN]
    function.CopyFrom(specification.mlProgram.functions[name])
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="weights-") as folder:
        file = Path(folder) / "weight.bin"
        with WeightWriter(file) as weights:
            _move_weights(function, package, weights)
        write_package(single, file, target)


def _copy_description(source: Any, target: Any) -> None:
    """Copies inputs, outputs and states between the description of a model and that of a function."""
    for field in _FEATURES:
        del getattr(target, field)[:]
        getattr(target, field).extend(getattr(source, field))
    for field in _PREDICTED:
        setattr(target, field, getattr(source, field))


def _check_opsets(specification: Any, target: Path) -> None:
    opsets = {name: function.opset for name, function in sorted(specification.mlProgram.functions.items())}
    if len(set(opsets.values())) > 1:
        each = ", ".join(f"{name}: {opset}" for name, opset in opsets.items())
        raise PackageError(f"{target}: functions for different systems do not go together ({each})")


def _move_weights(function: Any, package: Package, weights: WeightWriter) -> None:
    """Copies what a function reads of a weight file, and lets the function refer to the copies."""
    for block in function.block_specializations.values():
        for place, type_, blob in _blobs(block, package):
            stored = package.weight_file(blob.fileName, place).stored(blob.offset, type_.dtype, type_.shape, place)
            blob.fileName, blob.offset = WEIGHTS_IN_PROGRAM, weights.add(stored[0], type_.shape, stored[1])


def _blobs(block: Any, package: Package) -> Iterator[tuple[str, TensorType, Any]]:
    """Yields where a block refers to the weight file: the operation's name, the type, and the reference itself."""
    for place, value in _values(block):
        if value.WhichOneof("value") == "blobFileValue":
            type_ = tensor_type(value.type, place)
            if type_ is None or min(type_.shape, default=0) < 0:
                raise PackageError(f"{package.path}: {place!r} lies in the weight file and has no fixed shape")
            yield place, type_, value.blobFileValue


def _values(block: Any) -> Iterator[tuple[str, Any]]:
    """Yields every value that a block states, with the name of the operation that it is stated for."""
    for operation in block.operations:
        place = operation.outputs[0].name if operation.outputs else operation.type
        for value in operation.attributes.values():
            yield place, value
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    yield place, binding.value
        for inner in operation.blocks:
            yield from _values(inner)
