"""Apple's own runtime, through coremltools; macOS only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from optimum_ane.errors import InputError, PackageError, RuntimeUnavailableError
from optimum_ane.runtimes.portable.interface import read_features
from optimum_ane.runtimes.session import TensorSpec

COPY = "model.mlpackage"


def load_mlmodel(path: str, compute_units: ct.ComputeUnit) -> ct.models.MLModel:
    """Compiles and loads a package with Core ML.

    Raises:
        RuntimeUnavailableError: This is not macOS: coremltools loads the package there but cannot predict.
    """
    if sys.platform != "darwin":
        raise RuntimeUnavailableError("the Core ML runtime needs macOS; use --runtime portable on this machine")
    return ct.models.MLModel(path, compute_units=compute_units)


def copy_if_linked(package: Path) -> tempfile.TemporaryDirectory[str] | None:
    """Copies a package that holds symlinks: whether Core ML's compiler follows them is nowhere promised.

    Returns:
        The directory with the copy in it; None for a package of real files, or none at all.

    Raises:
        PackageError: A symlink leads nowhere, or there is no room for the copy.
    """
    if not package.is_symlink() and not any(path.is_symlink() for path in package.rglob("*")):
        return None
    directory = tempfile.TemporaryDirectory(prefix="optimum-ane-")
    try:
        shutil.copytree(package, os.path.join(directory.name, COPY))
    except (OSError, shutil.Error) as error:
        directory.cleanup()
        # A copy of several files: one entry for each that failed, its reason last.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise PackageError(
            f"{package} cannot be copied for Core ML ({reason}); check the disk, or download it again"
        ) from error
    return directory


class CoreMLSession:
    """A package loaded with Core ML.

    Which unit ran what is the system's decision: `compute_units` is a preference, and nothing here claims more.

    Args:
        path: The `.mlpackage` folder. If it holds symlinks, as a download cache does, Core ML gets a copy with real
            files, which is kept as long as the session.
        compute_units: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"` or `"cpu_only"`.
        load: Loads the package; tests inject an engine here.

    Raises:
        RuntimeUnavailableError: This is not macOS, or the compute units are not known.
        PackageError: Core ML refused the package.
    """

    runtime = "coreml"

    def __init__(
        self,
        path: str | Path,
        compute_units: str = "cpu_and_ne",
        load: Callable[[str, ct.ComputeUnit], Any] = load_mlmodel,
    ) -> None:
        units = ct.ComputeUnit.__members__.get(compute_units.upper())
        if units is None:
            known = ", ".join(name.lower() for name in ct.ComputeUnit.__members__)
            raise RuntimeUnavailableError(f"compute units {compute_units!r} are not one of {known}")
        self._copy = copy_if_linked(Path(path))
        try:
            self._model = load(str(path) if self._copy is None else os.path.join(self._copy.name, COPY), units)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeUnavailableError):
                raise
            raise PackageError(f"Core ML cannot load {path}: {error}") from error
        description = self._model.get_spec().description
        self._features = read_features(description.input, path)
        self.inputs: Mapping[str, TensorSpec] = {name: feature.spec for name, feature in self._features.items()}
        outputs = read_features(description.output, path)
        self.outputs: Mapping[str, TensorSpec] = {name: feature.spec for name, feature in outputs.items()}

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """See `Session.predict`. Inputs are checked here: Core ML's own messages do not name what was expected."""
        wrong = [name for name in inputs if name not in self._features]
        missing = [name for name, feature in self._features.items() if name not in inputs and not feature.optional]
        if wrong or missing:
            expected, given = ", ".join(self._features), ", ".join(inputs) or "none"
            raise InputError(f"the package takes the inputs {expected}; given were {given}")
        return self._model.predict({name: self._features[name].array(value) for name, value in inputs.items()})
