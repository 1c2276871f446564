"""Apple's own runtime, through coremltools; macOS only."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from optimum_ane.errors import InputError, PackageError, RuntimeUnavailableError
from optimum_ane.package.working_folders import WorkingFolder
from optimum_ane.runtimes.portable.images import input_picture, is_picture
from optimum_ane.runtimes.portable.interface import describe_function, read_features
from optimum_ane.runtimes.session import TensorSpec

COPY = "model.mlpackage"


Load = Callable[[str, "ct.ComputeUnit", str | None], Any]
"""Loads one function of a package, of those that have several, and gives what `MLModel` is; tests inject an engine."""


def load_mlmodel(path: str, compute_units: ct.ComputeUnit, function_name: str | None) -> ct.models.MLModel:
    """Compiles and loads a package with Core ML.

    Raises:
        RuntimeUnavailableError: This is not macOS: coremltools loads the package there but cannot predict.
    """
    if sys.platform != "darwin":
        raise RuntimeUnavailableError("the Core ML runtime needs macOS; use --runtime portable on this machine")
    return ct.models.MLModel(path, compute_units=compute_units, function_name=function_name)


def copy_if_linked(package: Path) -> WorkingFolder | None:
    """Copies a package that holds symlinks: whether Core ML's compiler follows them is nowhere promised.

    Returns:
        The directory with the copy in it; None for a package of real files, or none at all.

    Raises:
        PackageError: A symlink leads nowhere, or there is no room for the copy.
    """
    if not package.is_symlink() and not any(path.is_symlink() for path in package.rglob("*")):
        return None
    directory = WorkingFolder.temporary()
    try:
        shutil.copytree(package, directory.path / COPY)
    except (OSError, shutil.Error) as error:
        directory.remove()
        # A copy of several files: one entry for each that failed, its reason last.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise PackageError(
            f"{package} cannot be copied for Core ML ({reason}); check the disk, or download it again"
        ) from error
    return directory


class CoreMLState:
    """See `runtimes.State`; `MLState` of coremltools, which macOS has from 15 on."""

    def __init__(self, make: Callable[[], Any], specs: Mapping[str, TensorSpec]) -> None:
        self.mlstate = make()
        self._make, self._specs = make, specs

    @property
    def names(self) -> tuple[str, ...]:
        """See `State`."""
        return tuple(self._specs)

    def read(self, name: str) -> np.ndarray:
        """See `State`."""
        return np.array(self.mlstate.read_state(name), dtype=self._specs[name].dtype)

    def write(self, name: str, value: np.ndarray) -> None:
        """See `State`."""
        spec = self._specs[name]
        array = np.asarray(value)
        if array.shape != spec.shape or array.dtype.kind not in "biuf":
            raise InputError(f"state {name!r} is {spec.dtype} {spec.shape}; given was {array.dtype} {array.shape}")
        self.mlstate.write_state(name, array.astype(spec.dtype))

    def copy(self) -> CoreMLState:
        """See `State`."""
        copied = CoreMLState(self._make, self._specs)
        for name in self.names:
            copied.write(name, self.read(name))
        return copied


class CoreMLSession:
    """A function of a package, loaded with Core ML.

    Which unit ran what is the system's decision: `compute_units` is a preference, and nothing here claims more.

    Args:
        path: The `.mlpackage` folder. If it holds symlinks, as a download cache does, Core ML gets a copy with real
            files, which is kept as long as the session.
        compute_units: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"` or `"cpu_only"`.
        load: Loads the package; tests inject an engine here.
        function_name: Of a package with several; None takes the package's default.

    Raises:
        RuntimeUnavailableError: This is not macOS, or the compute units are not known.
        PackageError: Core ML refused the package, or it has no such function.
    """

    runtime = "coreml"

    def __init__(
        self,
        path: str | Path,
        compute_units: str = "cpu_and_ne",
        load: Load = load_mlmodel,
        function_name: str | None = None,
    ) -> None:
        units = ct.ComputeUnit.__members__.get(compute_units.upper())
        if units is None:
            known = ", ".join(name.lower() for name in ct.ComputeUnit.__members__)
            raise RuntimeUnavailableError(f"compute units {compute_units!r} are not one of {known}")
        self._path, self._compute_units, self._load = path, compute_units, load
        self._copy = copy_if_linked(Path(path))
        try:
            place = str(path) if self._copy is None else str(self._copy.path / COPY)
            self._model = load(place, units, function_name)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeUnavailableError):
                raise
            raise PackageError(f"Core ML cannot load {path}: {error}") from error
        spec = self._model.get_spec()
        self._functions = tuple(sorted(spec.mlProgram.functions))
        self.function_name, description = describe_function(spec, function_name, path)
        self._features = read_features(description.input, "input", path)
        self.inputs: Mapping[str, TensorSpec] = {name: feature.spec for name, feature in self._features.items()}
        self.outputs: Mapping[str, TensorSpec] = _specs(description.output, "output", path)
        self.states: Mapping[str, TensorSpec] = _specs(description.state, "state", path)

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return self._functions

    def function(self, name: str) -> CoreMLSession:
        """See `Session`. Core ML shares the weights of a package's functions by itself."""
        return CoreMLSession(self._path, self._compute_units, self._load, name)

    def with_rows(self, rows: int) -> CoreMLSession:
        """See `Session`: a package runs in its own shape only."""
        return self

    def make_state(self) -> CoreMLState:
        """See `Session`."""
        return CoreMLState(self._model.make_state, self.states)

    def predict(
        self,
        inputs: Mapping[str, Any],
        state: CoreMLState | None = None,
        *,
        intermediates: Sequence[str] = (),
    ) -> dict[str, Any]:
        """See `Session`. Inputs are checked here: Core ML's own messages do not name what was expected.

        Raises:
            InputError: Values in between were asked for, which Core ML does not give; or see `Session`.
        """
        if intermediates:
            raise InputError("Core ML gives no values in between; load the package with runtime='portable' for them")
        wrong = [name for name in inputs if name not in self._features]
        missing = [name for name, feature in self._features.items() if name not in inputs and not feature.optional]
        if wrong or missing:
            expected, given = ", ".join(self._features), ", ".join(inputs) or "none"
            raise InputError(f"the package takes the inputs {expected}; given were {given}")
        if bool(self.states) != (state is not None):
            states = ", ".join(self.states) or "none"
            raise InputError(f"the package has the states: {states}; pass one from make_state() where there are any")
        values = {name: self._checked(name, value) for name, value in inputs.items()}
        return self._model.predict(values) if state is None else self._model.predict(values, state.mlstate)

    def _checked(self, name: str, value: Any) -> Any:
        """Returns what Core ML takes for an input: an array of the declared type, or one of PIL's images."""
        feature = self._features[name]
        array = feature.array(value)
        if not feature.spec.image or is_picture(value):
            return value if feature.spec.image else array
        return input_picture(array, feature.spec.image)


def _specs(descriptions: Iterable[Any], kind: str, path: str | Path) -> dict[str, TensorSpec]:
    return {name: feature.spec for name, feature in read_features(descriptions, kind, path).items()}
