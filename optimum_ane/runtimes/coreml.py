"""Apple's own runtime, through coremltools; macOS only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from optimum_ane.errors import PackageError, RuntimeUnavailableError
from optimum_ane.runtimes.portable.interface import read_features
from optimum_ane.runtimes.session import TensorSpec


def load_mlmodel(path: str, compute_units: ct.ComputeUnit) -> ct.models.MLModel:
    """Compiles and loads a package with Core ML.

    Raises:
        RuntimeUnavailableError: This is not macOS: coremltools loads the package there but cannot predict.
    """
    if sys.platform != "darwin":
        raise RuntimeUnavailableError("the Core ML runtime needs macOS; use --runtime portable on this machine")
    return ct.models.MLModel(path, compute_units=compute_units)


class CoreMLSession:
    """A package loaded with Core ML.

    Which unit ran what is the system's decision: `compute_units` is a preference, and nothing here claims more.

    Args:
        path: The `.mlpackage` folder.
        compute_units: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"` or `"cpu_only"`.
        load: Loads the package; tests inject an engine here.

    Raises:
        RuntimeUnavailableError: This is not macOS.
        PackageError: Core ML refused the package.
    """

    runtime = "coreml"

    def __init__(
        self,
        path: str | Path,
        compute_units: str = "cpu_and_ne",
        load: Callable[[str, ct.ComputeUnit], Any] = load_mlmodel,
    ) -> None:
        try:
            self._model = load(str(path), ct.ComputeUnit[compute_units.upper()])
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
        arrays = {name: feature.array(inputs[name]) for name, feature in self._features.items() if name in inputs}
        return self._model.predict(arrays)
