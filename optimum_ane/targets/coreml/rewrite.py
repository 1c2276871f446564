"""A saved program, rewritten by graph passes and saved again: what it says of itself stays, what it computes too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.package.deployment_targets import TARGETS, ios_target, is_older
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.garbage import what_is_new_collected
from optimum_ane.targets.coreml.multifunction import MAIN, functions_of, merge_functions, split_function
from optimum_ane.targets.coreml.package_files import write_package, write_specification
from optimum_ane.targets.coreml.passes.compressed_weights import CONSTEXPR
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.targets.coreml.temporary_files import temporary_files_in
from optimum_ane.targets.coreml.validated_once import validated_once
from optimum_ane.targets.coreml.weight_writer import WeightWriter

_OPSETS = {f"CoreML{5 + index}": target for index, target in enumerate(TARGETS)}
"""The target of each set of operations, as functions name them. Source: coremltools' `_OPSET`."""

_OLDEST_VERSION = 6
"""That of `TARGETS[0]`; each later target has the next."""


def target_of(package: Package) -> str:
    """The oldest system that a package's operations need, by coremltools' name: `"iOS17"`.

    Raises:
        UnsupportedModelError: It is for one that is not known here.
    """
    opsets = {function.opset for function in package.spec.mlProgram.functions.values()}
    unknown = sorted(opsets - _OPSETS.keys())
    if unknown:
        raise UnsupportedModelError(
            f"{package.path} has operations of {unknown[0]!r}, and this version knows {', '.join(_OPSETS)}; "
            "update optimum-ane and coremltools"
        )
    return max((_OPSETS[opset] for opset in opsets), key=TARGETS.index)


def check_target(package: Package, target: str) -> None:
    """Refuses a deployment target that a package cannot be given.

    Args:
        package: The package.
        target: By any of coremltools' names.

    Raises:
        UnsupportedModelError: It is not known, older than the package's own, or newer across a change of the form of
            compressed weights.
    """
    own, wanted = target_of(package), ios_target(target)
    if is_older(wanted, own):
        raise UnsupportedModelError(
            f"{package.path} is for {own} and is not made for the older {target}: its operations do not exist there; "
            "convert the model anew for it"
        )
    if is_older(own, "iOS18") and not is_older(wanted, "iOS18") and _is_compressed(package):
        raise UnsupportedModelError(
            f"{package.path} is for {own} and has compressed weights, whose form is another from iOS18 on; leave out "
            f"--target, or convert the model for {target} and compress that"
        )


def rewrite_package(
    package: Package, pipeline: Callable[[], ct.PassPipeline], path: Path, *, target: str | None = None
) -> None:
    """Applies passes to every function of a package and saves the result.

    Names, types and order of inputs, outputs and states, what the package says of itself, a classifier's labels, and
    compressed weights stay as they are. Functions are rewritten one after another, so that no more than one is in
    memory; weights that several share are there once.

    Args:
        package: The package; it is not changed.
        pipeline: Makes the passes.
        path: The `.mlpackage` to write; its directory exists, it does not.
        target: A newer system to need from now on; None leaves it.

    Raises:
        UnsupportedModelError: coremltools cannot read the program, a pass does not bear it, or `check_target`.
        PackageError: The package is damaged.
        OSError: The result could not be written.
    """
    if target is not None:
        check_target(package, target)
    names = functions_of(package.spec)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix="functions-") as folder,
        temporary_files_in(Path(folder)),
        quiet(),
    ):
        rewritten = {}
        for name in names:
            source = package
            if names != (MAIN,):
                single = Path(folder) / f"{name}-before.mlpackage"
                split_function(package.path, name, single)
                source = Package(single)
            rewritten[name] = Path(folder) / f"{name}.mlpackage"
            with what_is_new_collected(), writing(rewritten[name]):
                _rewrite_function(source, pipeline(), rewritten[name], target)
        if names == (MAIN,):
            rewritten[MAIN].rename(path)
        else:
            merge_functions(rewritten, path, default=names[0])
            made = Package(path).spec
            # Merged functions have no metadata of the whole, nor what else a description may hold.
            made.description.CopyFrom(package.spec.description)
            write_specification(made, path)


def _rewrite_function(source: Package, pipeline: ct.PassPipeline, path: Path, target: str | None) -> None:
    """Rewrites a package of one function, called `main`."""
    version = _OLDEST_VERSION + TARGETS.index(ios_target(target) if target else target_of(source))
    program = _load(source, version)
    function = program.functions[MAIN]
    before = [*function.inputs], [output.name for output in function.outputs]
    try:
        with validated_once():
            PassPipelineManager.apply_pipeline(program, pipeline)
    except OSError:
        raise
    except Exception as error:  # passes raise whatever they stumble over
        raise UnsupportedModelError(
            f"{source.path}: a graph pass does not bear this program: {type(error).__name__}: {error}"
        ) from error
    if before != ([*function.inputs], [output.name for output in function.outputs]):
        raise AssertionError(f"{source.path}: a pass changed the names of inputs or outputs")
    made = type(source.spec)()
    made.CopyFrom(source.spec)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="weights-") as folder:
        exported = MILProtoExporter(program, folder, version).export()
        made.specificationVersion = max(made.specificationVersion, version)
        made.mlProgram.functions.clear()
        made.mlProgram.functions[MAIN].CopyFrom(exported.functions[MAIN])
        weights = Path(folder) / "weight.bin"
        if not weights.exists():  # coremltools begins the file with the first weight
            with WeightWriter(weights):
                pass
        write_package(made, weights, path)


def _load(source: Package, version: int) -> Program:
    """Reads a program as coremltools holds it.

    Raises:
        UnsupportedModelError: It cannot.
    """
    try:
        return load_program(
            source.spec,
            specification_version=version,
            file_weights_dir=str(source.folder / "weights"),
            # A package may declare a later system than its operations need.
            force_spec_version=True,
        )
    except OSError:
        raise
    except Exception as error:  # so does the reader
        raise UnsupportedModelError(
            f"{source.path}: coremltools {ct.__version__} cannot read this program back: {type(error).__name__}: "
            f"{error}"
        ) from error


def _is_compressed(package: Package) -> bool:
    return any(
        operation.type.startswith(CONSTEXPR)
        for function in package.spec.mlProgram.functions.values()
        for operation in function.block_specializations[function.opset].operations
    )


def flexible_feature(specification: Any) -> str | None:
    """The name of an input or output of a `Model` protobuf that may have several shapes; None where all are fixed."""
    functions = specification.description.functions or [specification.description]
    for feature in (each for function in functions for each in (*function.input, *function.output)):
        kind = feature.type.WhichOneof("Type")
        field = {"multiArrayType": "ShapeFlexibility", "imageType": "SizeFlexibility"}.get(kind)
        if field is not None and getattr(feature.type, kind).WhichOneof(field) is not None:
            return str(feature.name)
    return None
