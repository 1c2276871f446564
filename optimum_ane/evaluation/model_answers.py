"""The original and the package on the same batches: the one loop that all evaluators share."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.features import Encoded, F, batched
from optimum_ane.evaluation.running_psnr import RunningPSNR
from optimum_ane.progress import Progress
from optimum_ane.tasks import OutputField
from optimum_ane.validation.comparison import Model

BATCH_SIZE = 16
"""Rows a call. The original pads a batch of texts to its longest; a package runs its own fixed batch inside a call."""

A = TypeVar("A")

Outputs = Mapping[str, np.ndarray]
"""The outputs of one feature by field, float32: (…) for the whole row, or (K, …) for the K tokens that are scored."""


@dataclass(frozen=True)
class OutputReader(Generic[F, A]):
    """What a task gives to models, and what it reads of their outputs.

    Attributes:
        fields: The output fields that are read.
        axes: How many axes a field has for one row, where it has numbers for each row.
        if_missing: What to do if a model lacks one of them.
        collate: Makes a model's inputs of one batch of features.
        answers: Takes one batch of features with their outputs, and with the original's outputs of them where it was
            run, to answers in a form that takes little memory.
    """

    fields: tuple[OutputField, ...]
    axes: Mapping[str, int]
    if_missing: str
    collate: Callable[[Sequence[F]], dict[str, Tensor]]
    answers: Callable[[Sequence[F], Sequence[Outputs], Sequence[Outputs] | None], Iterable[A]]


@dataclass
class ModelAnswers(Generic[A]):
    """What one model answered.

    Attributes:
        answers: Of every feature, as the evaluator keeps them.
        seconds: Spent in the model, without what makes its inputs.
        batch_size: Most features it was called with at once.
    """

    answers: list[A] = field(default_factory=list)
    seconds: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True)
class BothAnswers(Generic[A]):
    """What both models answered.

    Attributes:
        package: The package's answers.
        original: The original's; None if it was not run.
        psnr: Of the outputs that are scored, in dB, the lowest of several fields; None without the original.
        truncated: How many rows lost a part.
    """

    package: ModelAnswers[A]
    original: ModelAnswers[A] | None
    psnr: float | None
    truncated: int


def run_models(
    reader: OutputReader[F, A],
    reference: Model | None,
    candidate: Model,
    encoded: Iterator[Encoded[F]],
    rows: int,
    progress: Progress,
) -> BothAnswers[A]:
    """Runs the package, and the original on the same inputs.

    Args:
        reader: What they are given, and what is read of their outputs.
        reference: The original in PyTorch, in float32 and on the CPU; None runs the package alone.
        candidate: The package.
        encoded: The dataset, some rows at a time.
        rows: How many rows it has.
        progress: Is called with (rows done, rows in all) after each batch.

    Raises:
        ValidationError: Outputs that are missing, of the wrong shape, or not finite.
    """
    package: ModelAnswers[A] = ModelAnswers()
    original: ModelAnswers[A] | None = None if reference is None else ModelAnswers()
    accepted = set() if reference is None else accepted_inputs(reference)
    ratios = {output.name: RunningPSNR() for output in reader.fields}
    truncated: set[int] = set()
    done = 0

    def features() -> Iterator[F]:
        for some in encoded:
            truncated.update(some.truncated)
            yield from some.features

    for batch in batched(features(), BATCH_SIZE):
        inputs = reader.collate(batch)
        expected: list[Outputs] | None = None
        if reference is not None and original is not None:
            known = {name: value for name, value in inputs.items() if name in accepted} or inputs
            expected = _run(reader, reference, known, batch, original, "original")
            original.answers += reader.answers(batch, expected, expected)
        outputs = _run(reader, candidate, inputs, batch, package, "package")
        for theirs, ours in zip(expected or (), outputs, strict=expected is not None):
            for name, ratio in ratios.items():
                _compare(theirs[name], ours[name], ratio)
        package.answers += reader.answers(batch, outputs, expected)
        done = batch[-1].row + 1
        progress(done, rows)
    if done < rows:
        progress(rows, rows)  # the last rows gave nothing to run

    is_compared = original is not None and all(ratio.count for ratio in ratios.values())
    lowest = min(ratio.ratio() for ratio in ratios.values()) if is_compared else None
    return BothAnswers(package, original, lowest, len(truncated))


def accepted_inputs(model: Model) -> set[str]:
    """The inputs that a model's forward names: a BERT tokenizer gives token types that DistilBERT lacks."""
    return set(inspect.signature(getattr(model, "forward", model)).parameters)


def _run(
    reader: OutputReader[F, A],
    model: Model,
    inputs: dict[str, Tensor],
    batch: Sequence[F],
    record: ModelAnswers[A],
    who: str,
) -> list[Outputs]:
    """Calls a model, records the time and returns what is scored of its outputs, feature by feature."""
    with torch.inference_mode():
        began = time.perf_counter()
        answer = model(**inputs)
        record.seconds += time.perf_counter() - began
    record.batch_size = max(record.batch_size, len(batch))
    outputs: list[dict[str, np.ndarray]] = [{} for _ in batch]
    for output in reader.fields:
        values = _values(reader, answer, output, inputs, who)
        for index, feature in enumerate(batch):
            scored = values[index]
            if output.per != "row":
                assert feature.positions is not None
                # Where padding stands before the tokens, these begin later.
                scored = scored[feature.positions + int(inputs["attention_mask"][index].argmax())]
            if not np.isfinite(scored).all():
                raise ValidationError(
                    f"the {who} answers with NaN or infinity, first for example {feature.row + 1} of the dataset; "
                    "if it is the package, export it with --precision float32"
                )
            outputs[index][output.name] = scored
    return list(outputs)


def _values(
    reader: OutputReader[F, A], answer: Any, output: OutputField, inputs: Mapping[str, Tensor], who: str
) -> np.ndarray:
    """One field of an output as float32 (N, …) for N rows, or (N, S, …)."""
    value = getattr(answer, output.name, None)
    if value is None:
        raise ValidationError(f"the {who} gives no {output.name}; {reader.if_missing}")
    values = value.detach().to("cpu", torch.float32).numpy()
    first = next((inputs[each] for each in ("pixel_values", "input_ids") if each in inputs), None)
    given = tuple((next(iter(inputs.values())) if first is None else first).shape)
    if output.per == "row":
        has_choices = "input_ids" in inputs and "pixel_values" not in inputs and len(given) == 3
        fits = values.ndim == 1 + reader.axes.get(output.name, 1) and len(values) == given[0]
        fits = fits and (not has_choices or values.shape == given[:2])
    else:
        fits = values.shape[:2] == given
    if not fits:
        raise ValidationError(
            f"the {who} answers with {output.name} of shape {values.shape} for {given[0]} rows of shape {given[1:]}"
        )
    return values


def _compare(theirs: np.ndarray, ours: np.ndarray, ratio: RunningPSNR) -> None:
    if theirs.shape != ours.shape:
        raise ValidationError(
            f"the package answers with an output of shape {ours.shape} a row, the original with {theirs.shape}; "
            "they are not of the same checkpoint"
        )
    ratio.add(theirs, ours)
