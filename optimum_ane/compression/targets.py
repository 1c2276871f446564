"""Deployment targets in order, and the one that a package was converted for."""

from __future__ import annotations

from typing import Any

from optimum_ane.errors import PackageError
from optimum_ane.package.deployment_targets import TARGETS

_OPSETS = {"CoreML5": "iOS15", "CoreML6": "iOS16", "CoreML7": "iOS17", "CoreML8": "iOS18", "CoreML9": "iOS26"}


def latest(*targets: str) -> str:
    """The newest of several targets."""
    return max(targets, key=TARGETS.index)


def target_of_program(spec: Any, path: str) -> str:
    """The target that a program was converted for, as its opset says.

    Args:
        spec: The `Model` protobuf of an ML Program.
        path: The package, for messages.

    Raises:
        PackageError: Its functions are for different systems, or of an opset of a later day.
    """
    opsets = sorted({function.opset for function in spec.mlProgram.functions.values()})
    if len(opsets) != 1 or opsets[0] not in _OPSETS:
        raise PackageError(f"{path} is of opset {' and '.join(opsets)}; known are {', '.join(_OPSETS)}, one at a time")
    return _OPSETS[opsets[0]]
