"""What is timed: a package, its stock-layout twin, or the original in PyTorch, all called in transformers' way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.benchmark.recorded_session import RecordedSession, Recorder
from optimum_ane.benchmark.timing import Prediction
from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.modeling import model_class_of
from optimum_ane.modeling.package_configuration import load_config
from optimum_ane.package.form import ExportForm
from optimum_ane.package.json_entries import read_entries
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.coreml import CoreMLSession, Load, load_mlmodel
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.pooled_original import as_reference

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from optimum_ane.runtimes import Session

Kind = Literal["package", "stock", "original"]
Engine = Literal["coreml", "portable", "pytorch"]
Inputs = Mapping[str, "Tensor"]
"""Keyword arguments as transformers' models take them; of a bare `.mlpackage`, its own inputs by name."""

_CALLS_FROM_MEMORY = 30


@dataclass(frozen=True)
class TimedModel:
    """One model of a benchmark.

    Attributes:
        kind: `"package"`, `"stock"` for the stock-layout conversion, or `"original"`.
        engine: What executes it.
        path: A package's directory, a bare `.mlpackage`, or the checkpoint's directory or Hub id.
        form: Task and form; None for a bare `.mlpackage`, which does not tell.
        compute_units: Core ML's preference; None for the other engines.
        revision: Of a checkpoint on the Hub.
    """

    kind: Kind
    engine: Engine
    path: str
    form: ExportForm | None = None
    compute_units: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """What tells it from the other models of one run."""
        return self.kind if self.compute_units is None else f"{self.kind}, {self.compute_units}"

    @property
    def precision(self) -> str | None:
        """Of the program; the original computes in float32. None where the package does not tell."""
        if self.kind == "original":
            return "float32"
        return None if self.form is None else self.form.precision

    def to_dict(self) -> dict[str, Any]:
        """JSON types, for another process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Any) -> TimedModel:
        """The inverse of `to_dict`, after a journey through JSON.

        Raises:
            PackageError: An entry is missing, unknown or of another type.
        """
        return read_entries(cls, entries, "the model to measure")


class LoadedModel(Protocol):
    """A model that is ready to be called and timed."""

    def __call__(self, **inputs: Any) -> Any:
        """Answers as a transformers model does; a bare `.mlpackage` gives its outputs by name."""
        ...

    def prediction(self, inputs: Inputs) -> Prediction:
        """Makes what is timed: all that the model predicts for these inputs, once each time it is called."""
        ...

    def model_class_ms(self, inputs: Inputs) -> float | None:
        """Milliseconds that a model class of ours takes around its predictions; None where there is none."""
        ...


class LoadedPackage:
    """A package behind its model class.

    What is timed are the predictions that the model class makes of a call, without the model class: it is Python,
    which an app does not have, and takes a tenth of a millisecond, which on a device may be a tenth of a prediction.

    Args:
        sessions: The loaded programs, by name.
        directory: Holds `config.json`.
        manifest: What `ane_config.json` says.
    """

    def __init__(self, sessions: Mapping[str, Session], directory: Path, manifest: Manifest) -> None:
        self._recorder = Recorder()
        recorded = {name: RecordedSession(session, self._recorder) for name, session in sessions.items()}
        config = load_config(directory)
        self._model = model_class_of(manifest.form.task, manifest.modality)(recorded, config, manifest)

    def __call__(self, **inputs: Any) -> Any:
        """See `LoadedModel`."""
        return self._model(**inputs)

    def prediction(self, inputs: Inputs) -> Prediction:
        """See `LoadedModel`."""
        with self._recorder.record() as calls:
            self._model(**inputs)

        def predict() -> None:
            for call in calls:
                call.repeat()

        return predict

    def model_class_ms(self, inputs: Inputs) -> float:
        """See `LoadedModel`: the median of calls whose predictions are answered from memory."""
        with self._recorder.record() as calls:
            self._model(**inputs)
        seconds = []
        for _ in range(_CALLS_FROM_MEMORY):
            with self._recorder.recall(calls):
                start = time.perf_counter()
                self._model(**inputs)
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds) * 1e3


class LoadedOriginal:
    """The original, in eager PyTorch and float32.

    Args:
        model: The transformers model.
        form: Of the package that it is compared with, which may pool.
    """

    def __init__(self, model: PreTrainedModel, form: ExportForm) -> None:
        self._model = as_reference(model, form)

    def __call__(self, **inputs: Any) -> Any:
        """See `LoadedModel`."""
        with torch.inference_mode():
            return self._model(**inputs)

    def prediction(self, inputs: Inputs) -> Prediction:
        """See `LoadedModel`."""
        return lambda: self(**inputs)

    def model_class_ms(self, inputs: Inputs) -> None:
        """See `LoadedModel`: it has none."""


class LoadedProgram:
    """A bare `.mlpackage`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """See `LoadedModel`."""
        return self._session.predict({name: value.numpy() for name, value in inputs.items()})

    def prediction(self, inputs: Inputs) -> Prediction:
        """See `LoadedModel`."""
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return lambda: self._session.predict(arrays)

    def model_class_ms(self, inputs: Inputs) -> None:
        """See `LoadedModel`: it has none."""


def load_timed_model(model: TimedModel, load: Load = load_mlmodel) -> LoadedModel:
    """Loads a model from disk, or from the Hub's cache.

    Args:
        model: Which one.
        load: Loads programs for the engine `"coreml"`.

    Raises:
        ANEError: It cannot be loaded.
    """
    if model.engine == "pytorch":
        assert model.form is not None
        checkpoint = open_checkpoint(model.path, task=model.form.task, hub=HubOptions(model.revision))
        return LoadedOriginal(checkpoint.original(), model.form)
    path = Path(model.path)
    if model.form is None:
        return LoadedProgram(_open_session(path, model, load))
    manifest = Manifest.read(path)
    sessions = {program.name: _open_session(path / program.path, model, load) for program in manifest.programs}
    return LoadedPackage(sessions, path, manifest)


def _open_session(path: Path, model: TimedModel, load: Load) -> Session:
    if model.engine == "coreml":
        return CoreMLSession(path, model.compute_units or "all", load)
    return PortableSession(path)
