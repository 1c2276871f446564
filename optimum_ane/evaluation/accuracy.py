"""The original and the package on the same rows, side by side."""

from __future__ import annotations

import inspect
import math
import time
from typing import Any, Protocol

import numpy as np
import torch

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.bootstrap import CONFIDENCE, RESAMPLES, drop_interval
from optimum_ane.evaluation.datasets import Examples
from optimum_ane.evaluation.metrics import METRIC_CONFIGS, GlueMetric
from optimum_ane.evaluation.report import AccuracyReport, ModelScore
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.problem_types import MULTI_LABEL, REGRESSION, ProblemType
from optimum_ane.progress import Progress, silent
from optimum_ane.validation.psnr import psnr

BATCH_SIZE = 16
"""Rows a call. The original pads each batch to its longest row; a package runs its own fixed batch inside a call."""

DEFAULT_MAX_ACCURACY_DROP = 1.0
"""In percentage points of the primary metric; hundredths for correlations."""


class Classifier(Protocol):
    """A sequence classifier as transformers has them: inputs by keyword, an output with `logits` (N, L)."""

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Returns an object whose `logits` is a torch tensor (N, L)."""
        ...


def compare(
    reference: Classifier | None,
    candidate: Classifier,
    tokenizer: Any,
    examples: Examples,
    *,
    sequence_length: int,
    problem_type: ProblemType,
    runtime: str,
    progress: Progress = silent,
) -> AccuracyReport:
    """Scores a package, and the original on the same tokens.

    Args:
        reference: The original in PyTorch, in fp32 and on the CPU; None scores the package alone.
        candidate: The package.
        tokenizer: The checkpoint's tokenizer; texts longer than `sequence_length` are truncated.
        examples: The dataset.
        sequence_length: Length of the package, in tokens.
        problem_type: What the checkpoint predicts.
        runtime: Which runtime executes the package, for the report.
        progress: Is called with (rows done, rows in all) after each batch.

    Raises:
        ValidationError: Logits of the wrong shape, or not finite.
        DatasetError: The labels do not fit the logits.
    """
    batch_size = min(BATCH_SIZE, len(examples))
    logits: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    seconds, reference_seconds = 0.0, 0.0
    truncated = 0
    for start in range(0, len(examples), batch_size):
        stop = min(start + batch_size, len(examples))
        encoding, cut = _encode(tokenizer, examples, start, stop, sequence_length)
        truncated += cut
        if reference is not None:
            answer, spent = _logits(reference, _accepted(reference, encoding), "original", start, stop)
            expected.append(answer)
            reference_seconds += spent
        answer, spent = _logits(candidate, encoding, "package", start, stop)
        logits.append(answer)
        seconds += spent
        progress(stop, len(examples))

    package_logits = np.concatenate(logits)
    package_predictions = _predictions(package_logits, examples, problem_type)
    package = _score(package_predictions, examples, problem_type, seconds, batch_size)
    primary = METRIC_CONFIGS[examples.metric_config].primary

    original, drop, interval, agreement, ratio = None, None, None, None, None
    if reference is not None:
        original_logits = np.concatenate(expected)
        if original_logits.shape != package_logits.shape:
            raise ValidationError(
                f"the package answers with logits of shape {package_logits.shape}, the original with "
                f"{original_logits.shape}; they are not of the same checkpoint"
            )
        original_predictions = _predictions(original_logits, examples, problem_type)
        original = _score(original_predictions, examples, problem_type, reference_seconds, batch_size)
        drop = 100 * (original.metrics[primary] - package.metrics[primary])
        fractions = drop_interval(primary, original_predictions, package_predictions, examples.labels)
        interval = None if fractions is None else (100 * fractions[0], 100 * fractions[1])
        if problem_type != REGRESSION:
            agreement = float(_same_rows(original_predictions, package_predictions).mean())
        ratio = psnr(original_logits, package_logits)

    return AccuracyReport(
        dataset=examples.name,
        rows=len(examples),
        truncated=truncated,
        metric_config=examples.metric_config,
        label_mapping=examples.label_mapping,
        problem_type=problem_type,
        sequence_length=sequence_length,
        runtime=runtime,
        primary_metric=primary,
        package=package,
        original=original,
        drop=drop,
        drop_interval=interval,
        agreement=agreement,
        psnr=ratio,
        resamples=RESAMPLES,
        confidence=CONFIDENCE,
        machine=machine_kind(),
        versions=tool_versions(),
    )


def check_accuracy_drop(report: AccuracyReport, max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP) -> None:
    """Refuses a package that is worse than the original by more than is allowed.

    Args:
        report: A report with the original in it.
        max_accuracy_drop: In percentage points of the primary metric; for correlations, which run from −1 to 1,
            hundredths.

    Raises:
        ValidationError: The drop is larger, or it is not defined.
        ValueError: The report has no original to compare with.
    """
    if report.drop is None:
        raise ValueError("a drop needs the original's score: compare with a reference")
    if math.isnan(report.drop):
        raise ValidationError(
            f"the drop in {report.primary_metric} on {report.dataset} is not defined: all labels or all predictions "
            "are equal; evaluate on more rows"
        )
    # Scores are ratios of counts: a drop of exactly the limit must not fail for the last bit of a division.
    if report.drop > max_accuracy_drop + 1e-9:
        raise ValidationError(
            f"the package is worse than the original by {report.drop:.2f} points, --max-accuracy-drop allows "
            f"{max_accuracy_drop:.2f}: {report.summary()}; export it with --precision float32, or raise the limit"
        )


def _encode(
    tokenizer: Any, examples: Examples, start: int, stop: int, sequence_length: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Tokenises rows, padded to the longest of them; and how many had to be cut."""
    texts = examples.texts[start:stop]
    pairs = examples.text_pairs[start:stop] if examples.text_pairs is not None else None
    # Lengths before truncation; verbose=False spares the user transformers' warning about each long text.
    whole = tokenizer(texts, pairs, padding=False, truncation=False, verbose=False)["input_ids"]
    encoding = tokenizer(texts, pairs, padding=True, truncation=True, max_length=sequence_length, return_tensors="pt")
    return dict(encoding), sum(len(ids) > sequence_length for ids in whole)


def _accepted(model: Classifier, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that the original's forward names: a BERT tokenizer gives token types that DistilBERT lacks."""
    parameters = inspect.signature(getattr(model, "forward", model)).parameters
    named = {name: value for name, value in inputs.items() if name in parameters}
    return named or inputs


def _logits(
    model: Classifier, inputs: dict[str, torch.Tensor], who: str, start: int, stop: int
) -> tuple[np.ndarray, float]:
    """Calls a model; returns logits (rows, L) in float32 and the seconds that it took."""
    with torch.inference_mode():
        began = time.perf_counter()
        logits = model(**inputs).logits
        seconds = time.perf_counter() - began
    values = logits.detach().to("cpu", torch.float32).numpy()
    if values.ndim != 2 or len(values) != stop - start:
        raise ValidationError(f"the {who} answers with logits of shape {values.shape} for {stop - start} texts")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = start + int(np.argmin(finite)) + 1
        raise ValidationError(
            f"the {who} answers with NaN or infinity, first for example {first} of the dataset; "
            "if it is the package, export it with --precision float32"
        )
    return values, seconds


def _predictions(logits: np.ndarray, examples: Examples, problem_type: ProblemType) -> np.ndarray:
    """int64 (N,) label ids, int64 (N, L) of 0 and 1, or float64 (N,) values."""
    if problem_type == REGRESSION:
        if logits.shape[1] != 1:
            raise DatasetError(f"a regression checkpoint has one output, this one has {logits.shape[1]}")
        return logits[:, 0].astype(np.float64)
    if problem_type == MULTI_LABEL:
        if examples.labels.shape != logits.shape:
            raise DatasetError(f"labels have the shape {examples.labels.shape}, logits {logits.shape}")
        return (logits > 0).astype(np.int64)  # a probability above one half, as transformers' pipeline has it
    if int(examples.labels.max()) >= logits.shape[1]:
        raise DatasetError(f"label {examples.labels.max()} occurs, the model has {logits.shape[1]} outputs")
    return logits.argmax(axis=1)


def _same_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    same = left == right
    return same.all(axis=1) if same.ndim == 2 else same


def _score(
    predictions: np.ndarray, examples: Examples, problem_type: ProblemType, seconds: float, batch_size: int
) -> ModelScore:
    metrics = GlueMetric(examples.metric_config).compute(predictions=predictions, references=examples.labels)
    right = None if problem_type == REGRESSION else int(_same_rows(predictions, examples.labels).sum())
    return ModelScore(metrics, right, len(examples) / max(seconds, 1e-9), batch_size)
