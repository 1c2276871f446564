"""The accuracy of many variants of one package on one dataset: the dataset is read once, the original runs once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.evaluation.reference import load_reference
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.modeling import model_class_of
from optimum_ane.modeling.package_configuration import load_config
from optimum_ane.package.manifest import Manifest
from optimum_ane.progress import row_progress
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.session import Session
from optimum_ane.validation.comparison import Model

_MOST_BYTES = 1024**3
"""How much of the original's outputs is remembered. Scores of a vocabulary fill it; the rest is computed again."""


class _Remembering:
    """A model that answers from memory what it was asked before."""

    def __init__(self, model: Model, fields: Sequence[str]) -> None:
        self._model = model
        self._fields = fields
        self._answers: dict[bytes, SimpleNamespace] = {}
        self._free = _MOST_BYTES
        self.forward = getattr(model, "forward", model)  # its signature says which inputs it takes

    def __call__(self, **inputs: Tensor) -> Any:
        """Returns an object with the fields of the task's output, or what the model itself returns."""
        digest = hashlib.sha256()
        for name, value in sorted(inputs.items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        key = digest.digest()
        if key in self._answers:
            return self._answers[key]
        answer = self._model(**inputs)
        tensors = {name: getattr(answer, name, None) for name in self._fields}
        size = sum(tensor.nbytes for tensor in tensors.values() if tensor is not None)
        if size <= self._free:
            self._free -= size
            self._answers[key] = SimpleNamespace(**tensors)
        return answer


class AccuracyScorer:
    """Scores variants of a package.

    Attributes:
        name: Tells this dataset and this original from others: the same name, the same scores.
        against: What drops are measured against, in words.
    """

    def __init__(
        self,
        directory: Path,
        spec: DatasetSpec,
        *,
        reference: str | None = None,
        with_reference: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        """Reads the dataset and loads what the variants are compared with.

        Args:
            directory: The package that is varied.
            spec: The dataset.
            reference: Hub id or directory of the original; None takes the source that the package names.
            with_reference: Whether drops are measured against the original; else against the package as it is.
            trust_remote_code: Whether code from the original's repository may run.

        Raises:
            UnsupportedModelError: The package gives nothing that a dataset can score, such as hidden states.
            DatasetError: The dataset is flawed.
            CheckpointError: The original cannot be loaded.
        """
        self._manifest = Manifest.read(directory)
        self._program = self._manifest.programs[0]
        self._config = load_config(directory)
        self._evaluator = get_evaluator(self._manifest.form.task, self._config, self._manifest.modality)
        self._evaluator.check_pooling(self._manifest.form.pooling)
        self._preprocessor = load_preprocessor(directory, self._manifest)
        self._examples = self._evaluator.load(spec)
        if with_reference:
            original = load_reference(reference, self._manifest, self._config, trust_remote_code=trust_remote_code)
            self.against = "the original"
        else:
            original = self._model(PortableSession(directory / self._program.path))
            self.against = "the package as it is"
        self._original = _Remembering(original, [field.name for field in self._evaluator.fields])
        self.name = f"{self._examples.name}, {self._examples.digest()[:16]}, against {self.against}"

    def report(self, session: Session) -> AccuracyReport:
        """Scores one variant, as `ane evaluate` does.

        Args:
            session: The variant, loaded.

        Raises:
            ValidationError: Answers that cannot be scored.
        """
        with row_progress(f"evaluating on {len(self._examples)} rows") as progress:
            return self._evaluator.compare(
                self._original,
                self._model(session),
                self._preprocessor,
                self._examples,
                sequence_length=self._manifest.form.longest,
                runtime=session.runtime,
                progress=progress,
            )

    def drop(self, session: Session) -> float:
        """The drop of one variant in percentage points (hundredths for correlations); NaN where it is not defined."""
        drop = self.report(session).drop
        assert drop is not None  # there is always something that it is compared with
        return drop

    def _model(self, session: Session) -> Model:
        model_class = model_class_of(self._manifest.form.task, self._manifest.modality)
        model: Model = model_class({self._program.name: session}, self._config, self._manifest)
        return model
