"""What is timed: a package, a stock-layout package, or the original in PyTorch, each ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.package.form import ExportSpec
from optimum_ane.runtimes.coreml import CoreMLSession, load_mlmodel
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.parity import answer_of_original

if TYPE_CHECKING:
    import coremltools as ct
    from transformers import PreTrainedModel

    from optimum_ane.runtimes import Session

Kind = Literal["package", "stock", "original"]
Engine = Literal["coreml", "portable", "pytorch"]
Arrays = Mapping[str, np.ndarray]
Runner = Callable[[], dict[str, Any]]
"""Predicts once, on inputs that it holds, and gives outputs by name."""
Load = Callable[[str, "ct.ComputeUnit"], Any]
"""Loads a package into Core ML; tests inject an engine."""


@dataclass(frozen=True)
class Subject:
    """One thing to time.

    Attributes:
        kind: `"package"`, `"stock"` for the stock-layout conversion, or `"original"`.
        engine: What executes it.
        path: The `.mlpackage`, or the checkpoint's directory or Hub id.
        spec: Task and form; None for an `.mlpackage` that does not tell.
        compute_units: Core ML's preference; None for the other engines.
        revision: Of a checkpoint on the Hub.
    """

    kind: Kind
    engine: Engine
    path: str
    spec: ExportSpec | None = None
    compute_units: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """What tells it from the other subjects of one run."""
        return self.kind if self.compute_units is None else f"{self.kind}, {self.compute_units}"

    @property
    def precision(self) -> str | None:
        """Of the program; the original computes in float32. None where the package does not tell."""
        if self.kind == "original":
            return "float32"
        return None if self.spec is None else self.spec.precision

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Subject:
        """The inverse of `to_dict`."""
        spec = entries["spec"]
        return cls(**{**entries, "spec": None if spec is None else ExportSpec(**spec)})


def open_subject(subject: Subject, inputs: Arrays, load: Load = load_mlmodel) -> Runner:
    """Loads a subject from disk.

    Args:
        subject: What to load.
        inputs: By name, of the declared shapes.
        load: Loads packages for the engine `"coreml"`.

    Raises:
        ANEError: It cannot be loaded.
    """
    if subject.engine == "pytorch":
        assert subject.spec is not None
        hub = hub_options(subject.path, subject.revision)
        original = open_checkpoint(subject.path, task=subject.spec.task, hub=hub).original()
        return run_original(original, subject, inputs)
    session: Session
    if subject.engine == "coreml":
        session = CoreMLSession(subject.path, subject.compute_units or "all", load)
    else:
        session = PortableSession(subject.path)
    return lambda: session.predict(inputs)


def run_original(model: PreTrainedModel, subject: Subject, inputs: Arrays) -> Runner:
    """Makes the original callable: eager PyTorch in float32, with the outputs of the package."""
    spec = subject.spec
    assert spec is not None
    tensors = {name: torch.from_numpy(value).long() for name, value in inputs.items()}

    def run() -> dict[str, Any]:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in answer_of_original(model, tensors, spec).items()}

    return run


def hub_options(model: str, revision: str | None) -> HubOptions:
    """How to reach a checkpoint that a package names: a revision is of the Hub's."""
    return HubOptions(revision=None if Path(model).is_dir() else revision)
