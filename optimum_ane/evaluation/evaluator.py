"""What scores a task on a dataset: the contract, and the report that follows from it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import DatasetError, UnsupportedModelError, ValidationError
from optimum_ane.evaluation.bootstrap import CONFIDENCE, RESAMPLES, ResampledScore, drop_interval
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.features import Encoded, F, collate
from optimum_ane.evaluation.model_answers import (
    BATCH_SIZE,
    A,
    BothAnswers,
    ModelAnswers,
    OutputReader,
    Outputs,
    run_models,
)
from optimum_ane.evaluation.report import AccuracyReport, ModelScore
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.metric_format import drop_of
from optimum_ane.progress import Progress, silent
from optimum_ane.tasks import TASKS, OutputField, resolve, task_row
from optimum_ane.validation.comparison import Model


@dataclass(frozen=True)
class Examples(ABC):
    """Rows of a dataset that were checked, ready to be scored.

    Attributes:
        name: What reports call the dataset.
        metric_config: Which metrics fit.
        label_mapping: How the dataset's labels were matched with the checkpoint's; None where there are none.
    """

    name: str
    metric_config: str
    label_mapping: str | None

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    def digest(self) -> str:
        """SHA-256 of the rows: the same, the same scores."""
        return self.hash_fields()

    def hash_fields(self, leave_out: Sequence[str] = ()) -> str:
        """SHA-256 of the attributes, without some."""
        found = hashlib.sha256()
        for entry in fields(self):
            if entry.name in leave_out:
                continue
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
            else:
                found.update(json.dumps(value, ensure_ascii=False).encode())
        return found.hexdigest()


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Scores:
    """How one model did on a dataset.

    Attributes:
        metrics: Name to value; the primary metric, whose drop the gate limits, comes first. NaN where not defined.
        resampled: The primary metric on resamples of the rows; of error rates what is right, 1 less the rate.
        predictions: What was predicted, comparable entry by entry, (M,) or (M, L); None for numbers, which are not.
        right: Rows that are right; None where a row has no one right answer.
        counts: What was scored besides rows, by name in the plural.
    """

    metrics: dict[str, float]
    resampled: ResampledScore
    predictions: np.ndarray | None
    right: int | None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return next(iter(self.metrics))


class Evaluator(ABC, Generic[E, F, A]):
    """Scores a package on a dataset, beside the original.

    A task's own evaluator says how rows become inputs, what is kept of the outputs, and what the metrics are. The
    type parameters are its examples, its features (rows of inputs) and its answers. What makes inputs is a
    preprocessor: see `evaluation.preprocessors`.

    Attributes:
        config: The checkpoint's configuration.
    """

    task: ClassVar[str]
    unit: ClassVar[str] = "rows"
    """What a prediction is made for, in the plural."""
    outputs: ClassVar[str] = "logits"
    """What the outputs are called in reports."""
    if_missing: ClassVar[str] = "load the model with the class of its task"
    """What to do if a model lacks an output."""
    axes: ClassVar[Mapping[str, int]] = {}
    """How many axes an output has for one row, by field; 1 where it is not said."""
    has_tokens: ClassVar[bool] = True
    """Whether rows are tokens, of which the package takes so many."""

    def __init__(self, config: Any) -> None:
        """Takes the checkpoint's configuration, a `PretrainedConfig`."""
        self.config = config

    @property
    def fields(self) -> tuple[OutputField, ...]:
        """The fields of transformers' output class that are read."""
        return TASKS[self.task].fields

    @classmethod
    def check_pooling(cls, pooling: str | None) -> None:
        """Refuses, before anything is loaded, a package whose form the task cannot be scored on.

        Args:
            pooling: How the package pools hidden states; None where it does not.

        Raises:
            UnsupportedModelError: It has to be exported otherwise.
        """

    def needs_original(self, examples: E) -> bool:
        """Whether the original's answers are what is right, since the dataset does not say it.

        The original's own scores are then those of a package without error, and drops mean what they always do.
        """
        return False

    @abstractmethod
    def load(self, spec: DatasetSpec) -> E:
        """Loads a dataset whole and checks every row.

        Raises:
            DatasetError: The dataset is missing or flawed; the message names file, row and column.
        """

    @abstractmethod
    def encode(self, preprocessor: Any, examples: E, rows: Sequence[int], sequence_length: int) -> Encoded[F]:
        """Makes a model's inputs of some rows.

        Args:
            preprocessor: The checkpoint's tokenizer, for texts.
            examples: The dataset.
            rows: Which rows, from 0.
            sequence_length: Most tokens of a feature; says nothing to images.
        """

    def collate(self, preprocessor: Any, features: Sequence[F], length: int | None = None) -> dict[str, Tensor]:
        """Makes one batch of features.

        Args:
            preprocessor: Knows the ids and the side of the padding, of texts.
            features: N features, all with the same number of choices.
            length: Tokens to pad to; None pads to the longest.

        Returns:
            By transformers' names, (N, …) each.
        """
        return collate(preprocessor, features, length)

    @abstractmethod
    def answers(self, features: Sequence[F], outputs: Sequence[Outputs]) -> Iterable[A]:
        """Takes from outputs what scoring needs.

        Args:
            features: One batch.
            outputs: The outputs of each feature.
        """

    def answers_beside(
        self, features: Sequence[F], outputs: Sequence[Outputs], expected: Sequence[Outputs] | None
    ) -> Iterable[A]:
        """Takes from outputs what scoring needs, where the original's tell what is right.

        Args:
            features: One batch.
            outputs: The outputs of each feature.
            expected: The original's outputs of each, which are `outputs` for the original itself; None without it.
        """
        return self.answers(features, outputs)

    @abstractmethod
    def score(self, examples: E, answers: Sequence[A]) -> Scores:
        """Measures one model.

        Args:
            examples: The dataset.
            answers: Of all features, in order.

        Raises:
            DatasetError: The labels do not fit the outputs, or there is nothing to score.
        """

    def compare(
        self,
        reference: Model | None,
        candidate: Model,
        preprocessor: Any,
        examples: E,
        *,
        sequence_length: int,
        runtime: str,
        progress: Progress = silent,
    ) -> AccuracyReport:
        """Scores a package, and the original on the same inputs.

        Args:
            reference: The original in PyTorch, in float32 and on the CPU, pooled as the package is; None scores the
                package alone.
            candidate: The package.
            preprocessor: What makes inputs: the checkpoint's tokenizer, for texts; the package's own image processor
                for images, so that both are judged on the same pixels.
            examples: The dataset, from `load`.
            sequence_length: Length of the package, in tokens; longer rows are cut, or read in windows. Says nothing to
                images.
            runtime: Which runtime executes the package, for the report.
            progress: Is called with (rows done, rows in all) after each batch.

        Raises:
            ValidationError: Outputs that are missing, of the wrong shape, or not finite; or no original, where that
                says what is right.
            DatasetError: The labels do not fit the outputs, or there is nothing to score.
        """
        if self.needs_original(examples) and reference is None:
            raise ValidationError(
                f"{self.task} is scored against the original, which says what is right; leave out --no-reference, and "
                "name the original with --reference where it is not found"
            )
        count = len(examples)
        both = self.run(reference, candidate, preprocessor, examples, sequence_length, progress)
        if not both.package.answers:
            raise DatasetError(f"{examples.name}: no row gives anything to score; take another dataset")
        package = self.score(examples, both.package.answers)
        original, drop, interval, agreement = None, None, None, None
        if both.original is not None:
            scores = self.score(examples, both.original.answers)
            original = _model_score(scores, both.original, count)
            drop = drop_of(package.primary, scores.metrics[package.primary], package.metrics[package.primary])
            ends = drop_interval(scores.resampled, package.resampled, count)
            interval = None if ends is None else (100 * ends[0], 100 * ends[1])
            agreement = _agreement(scores, package)
        return AccuracyReport(
            dataset=examples.name,
            rows=count,
            truncated=both.truncated,
            metric_config=examples.metric_config,
            label_mapping=examples.label_mapping,
            problem_type=self.problem_type,
            sequence_length=sequence_length if self.has_tokens else None,
            runtime=runtime,
            primary_metric=package.primary,
            package=_model_score(package, both.package, count),
            original=original,
            drop=drop,
            drop_interval=interval,
            agreement=agreement,
            psnr=both.psnr,
            resamples=RESAMPLES,
            confidence=CONFIDENCE,
            machine=machine_kind(),
            versions=tool_versions(),
            task=self.task,
            unit=self.unit,
            counts=package.counts,
            outputs=self.outputs,
        )

    def run(
        self,
        reference: Model | None,
        candidate: Model,
        preprocessor: Any,
        examples: E,
        sequence_length: int,
        progress: Progress,
    ) -> BothAnswers[A]:
        """Runs the package, and the original on the same inputs; see `compare`.

        Raises:
            ValidationError: Outputs that are missing, of the wrong shape, or not finite.
        """
        encoded = self._encode_all(preprocessor, examples, sequence_length)
        reader = OutputReader(
            self.fields, self.axes, self.if_missing, partial(self.collate, preprocessor), self.answers_beside
        )
        return run_models(reader, reference, candidate, encoded, len(examples), progress)

    def inputs(self, preprocessor: Any, examples: E, rows: Sequence[int], sequence_length: int) -> dict[str, Tensor]:
        """Some rows as a package takes them, without their labels.

        Args:
            preprocessor: See `compare`.
            examples: The dataset.
            rows: Which rows, from 0.
            sequence_length: Length of the package, in tokens.

        Returns:
            Of texts int64 (M, sequence_length) each; choices are rows of their own. Of images what the processor
            gives, (M, …) each.

        Raises:
            DatasetError: The rows give nothing to run.
        """
        features = self.encode(preprocessor, examples, rows, sequence_length).features
        if not features:
            raise DatasetError(f"{examples.name}: no row gives anything to run; take another dataset")
        padded = [self.collate(preprocessor, [feature], sequence_length) for feature in features]
        has_choices = features[0].choices is not None
        return {
            name: torch.cat([inputs[name].flatten(0, 1) if has_choices else inputs[name] for inputs in padded])
            for name in padded[0]
        }

    @property
    def problem_type(self) -> str | None:
        """What a text classifier predicts, by transformers' own name; None for other tasks."""
        return None

    def _encode_all(self, preprocessor: Any, examples: E, sequence_length: int) -> Iterator[Encoded[F]]:
        for start in range(0, len(examples), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(examples)))
            yield self.encode(preprocessor, examples, rows, sequence_length)


def get_evaluator(task: str, config: Any, modality: str = "text") -> Evaluator:
    """The evaluator of a task for a checkpoint.

    Args:
        task: Optimum's name of the task.
        config: The checkpoint's configuration, a `PretrainedConfig`.
        modality: What its rows are.

    Raises:
        UnsupportedModelError: The task has none.
    """
    return get_evaluator_class(task, modality)(config)


def get_evaluator_class(task: str, modality: str = "text") -> type[Evaluator]:
    """The evaluator of a task, by Optimum's name, and of what its rows are.

    Raises:
        UnsupportedModelError: The task has none.
    """
    if task not in TASKS:
        raise UnsupportedModelError(f"{task!r} is not evaluated on a dataset; these tasks are: {', '.join(TASKS)}")
    row = task_row(task, modality=modality)
    if row.evaluator is None:
        scored = ", ".join(name for name, each in TASKS.items() if each.evaluator is not None)
        rows = {"audio": "sounds", "image": "images"}.get(row.modality, "texts")
        raise UnsupportedModelError(
            f"datasets of {rows} for {task} are not read in this version; scored are {scored}. How closely the "
            f"package follows the original is measured at each export, and {row.model_class} answers as that does"
        )
    found: type[Evaluator] = resolve(row.evaluator)
    return found


def _model_score(scores: Scores, run: ModelAnswers, rows: int) -> ModelScore:
    return ModelScore(scores.metrics, scores.right, rows / max(run.seconds, 1e-9), run.batch_size)


def _agreement(original: Scores, package: Scores) -> float | None:
    if original.predictions is None or package.predictions is None:
        return None
    same = original.predictions == package.predictions
    return float((same.all(axis=1) if same.ndim == 2 else same).mean())
