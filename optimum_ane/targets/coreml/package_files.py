"""Writes an `.mlpackage`, or the specification of one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_ane.targets.coreml.quiet import quiet, writing

WEIGHT_FILE = "weight.bin"
WEIGHTS_IN_PROGRAM = f"@model_path/weights/{WEIGHT_FILE}"
"""How a program refers to its weight file."""


def write_specification(specification: Any, path: Path) -> None:
    """Replaces the specification of a package that coremltools wrote; the weights stay.

    Args:
        specification: The `Model` protobuf.
        path: The `.mlpackage`.
    """
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(specification.SerializeToString())


def write_package(specification: Any, weights: Path, path: Path) -> None:
    """Writes a package.

    Args:
        specification: The `Model` protobuf of an ML Program.
        weights: The folder that holds the weight file; it is copied.
        path: The `.mlpackage` to write; it does not exist.

    Raises:
        OutputError: It could not be written.
    """
    import coremltools as ct

    with quiet(), writing():
        ct.utils.save_spec(specification, str(path), weights_dir=str(weights))
