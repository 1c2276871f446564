"""Writes an `.mlpackage`, or the specification of one that is there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from optimum_ane.targets.coreml.quiet import quiet, writing

WEIGHTS_IN_PROGRAM = "@model_path/weights/weight.bin"
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
        weights: The weight file, on the same disk; it is moved.
        path: The `.mlpackage` to write; it does not exist.

    Raises:
        OSError: It could not be written.
    """
    import coremltools as ct

    with tempfile.TemporaryDirectory(dir=weights.parent) as empty, quiet(), writing(path):
        ct.utils.save_spec(specification, str(path), weights_dir=empty)
    weights.rename(path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin")
