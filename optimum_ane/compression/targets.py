"""Deployment targets in order, and the one that a package was converted for."""

from __future__ import annotations

from typing import Any

from optimum_ane.errors import CompressionError, PackageError
from optimum_ane.package.deployment_targets import TARGETS

_OPSETS = {"CoreML5": "iOS15", "CoreML6": "iOS16", "CoreML7": "iOS17", "CoreML8": "iOS18", "CoreML9": "iOS26"}


def latest(*targets: str) -> str:
    """The newest of several targets."""
    return max(targets, key=TARGETS.index)


def target_of_name(name: str) -> str:
    """The iOS target of any of coremltools' names: `"macOS15"` is `"iOS18"`.

    Raises:
        CompressionError: coremltools does not know the name.
    """
    import coremltools as ct

    if name not in ct.target.__members__:
        raise CompressionError(f"deployment target {name!r} is unknown; choose one of {', '.join(TARGETS)}")
    return ct.target[name].name


def target_of_program(spec: Any, path: str) -> str:
    """The target that a program was converted for, as its opset says.

    Args:
        spec: The `Model` protobuf of an ML Program.
        path: The package, for messages.

    Raises:
        PackageError: It has several functions, which coremltools does not compress, or an opset of a later day.
    """
    functions = spec.mlProgram.functions
    if list(functions) != ["main"]:
        raise PackageError(f"{path} has the functions {', '.join(functions)}; coremltools compresses programs of one")
    opset = functions["main"].opset
    if opset not in _OPSETS:
        raise PackageError(f"{path} is of opset {opset!r}; known are {', '.join(_OPSETS)}")
    return _OPSETS[opset]
