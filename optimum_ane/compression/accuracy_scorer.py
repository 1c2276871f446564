"""The accuracy of many variants of one package on one dataset: the dataset is read once, the original runs once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from optimum_ane.errors import CompressionError
from optimum_ane.evaluation.accuracy import Classifier, compare
from optimum_ane.evaluation.datasets import DatasetSpec, load_examples
from optimum_ane.evaluation.reference import TASK, load_reference
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.problem_types import problem_type_of
from optimum_ane.progress import row_progress
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.session import Session


class _Remembering:
    """A classifier that answers from memory what it was asked before."""

    def __init__(self, model: Classifier) -> None:
        self._model = model
        self._answers: dict[bytes, torch.Tensor] = {}
        self.forward = getattr(model, "forward", model)  # its signature says which inputs it takes

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Returns an object with `logits`."""
        digest = hashlib.sha256()
        for name, value in sorted(inputs.items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        key = digest.digest()
        if key not in self._answers:
            self._answers[key] = self._model(**inputs).logits
        return SimpleNamespace(logits=self._answers[key])


class Judge:
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
            CompressionError: The package is no text classifier.
            DatasetError: The dataset is flawed.
            CheckpointError: The original cannot be loaded.
        """
        from transformers import AutoConfig, AutoTokenizer

        self._ane_config = Manifest.read(directory)
        if self._ane_config.task != TASK:
            raise CompressionError(f"{directory} does {self._ane_config.task}; accuracy is measured of {TASK} only")
        self._config = AutoConfig.from_pretrained(directory)
        self._tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        self._problem_type = problem_type_of(self._config)
        self._examples = load_examples(spec, id2label=self._config.id2label, problem_type=self._problem_type)
        if with_reference:
            original: Classifier = load_reference(
                reference, self._ane_config, self._config, trust_remote_code=trust_remote_code
            )
            self.against = "the original"
        else:
            original = self._model(PortableSession(directory / MLPACKAGE))
            self.against = "the package as it is"
        self._original = _Remembering(original)
        digest = hashlib.sha256(self._examples.labels.tobytes())
        for text in [*self._examples.texts, *(self._examples.text_pairs or [])]:
            digest.update(text.encode())
        self.name = f"{self._examples.name}, {digest.hexdigest()[:16]}, against {self.against}"

    def report(self, session: Session) -> AccuracyReport:
        """Scores one variant, as `ane evaluate` does.

        Args:
            session: The variant, loaded.

        Raises:
            ValidationError: Answers that cannot be scored.
        """
        with row_progress(f"evaluating on {len(self._examples)} rows") as progress:
            return compare(
                self._original,
                self._model(session),
                self._tokenizer,
                self._examples,
                sequence_length=self._ane_config.sequence_length,
                problem_type=self._problem_type,
                runtime=session.runtime,
                progress=progress,
            )

    def drop(self, session: Session) -> float:
        """The drop of one variant in percentage points (hundredths for correlations); NaN where it is not defined."""
        drop = self.report(session).drop
        assert drop is not None  # there is always something that it is compared with
        return drop

    def _model(self, session: Session) -> Classifier:
        from optimum_ane.modeling import ANEModelForSequenceClassification

        return ANEModelForSequenceClassification(session, self._config, self._ane_config)
