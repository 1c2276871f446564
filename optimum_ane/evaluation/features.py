"""Rows of a model's inputs, made from the rows of a dataset, and how they become a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Feature:
    """One row of a model's inputs.

    A row of a dataset may give several: each of its two sentences, each window of a long text, each masked token.

    Attributes:
        inputs: Without padding, by transformers' names: S integers each, or a list of such lists, one for each choice;
            of images a tensor each.
        row: The dataset's row that it was made from, from 0.
        positions: int64 (K,), the tokens whose outputs are scored, where the task has outputs for each token.
    """

    inputs: Mapping[str, Any]
    row: int
    positions: np.ndarray | None = None

    @property
    def choices(self) -> int | None:
        """How many choices there are; None where the task has none."""
        ids = self.inputs.get("input_ids")
        return len(ids) if ids and isinstance(ids[0], list) else None


F = TypeVar("F", bound=Feature)


@dataclass(frozen=True)
class Encoded(Generic[F]):
    """Rows of a dataset as a model takes them.

    Attributes:
        features: In the order of the rows.
        truncated: The rows that lost a part.
    """

    features: list[F]
    truncated: frozenset[int] = frozenset()


def model_inputs(tokenizer: Any, encoding: Mapping[str, Any], index: int) -> dict[str, list[int]]:
    """What a model takes of row `index` of a tokenizer's answer, which holds other things besides."""
    return {name: encoding[name][index] for name in tokenizer.model_input_names if name in encoding}


def longer_rows(encoding: Mapping[str, Any], rows: Sequence[int], sequence_length: int) -> frozenset[int]:
    """Which rows of an encoding without truncation are longer than a package; `rows` has their numbers."""
    return frozenset(row for row, ids in zip(rows, encoding["input_ids"], strict=True) if len(ids) > sequence_length)


def batched(features: Iterable[F], size: int) -> Iterator[list[F]]:
    """Yields up to `size` features at a time, in order, all with the same number of choices."""
    batch: list[F] = []
    for feature in features:
        if batch and (len(batch) == size or feature.choices != batch[0].choices):
            yield batch
            batch = []
        batch.append(feature)
    if batch:
        yield batch


def collate(tokenizer: Any, features: Sequence[Feature], length: int | None = None) -> dict[str, Tensor]:
    """Pads features to one batch.

    Args:
        tokenizer: Knows the ids and the side of the padding.
        features: N features, all with the same number of choices.
        length: Tokens to pad to; None pads to the longest.

    Returns:
        int64 (N, S) each, or (N, choices, S).
    """
    choices = features[0].choices
    rows = {
        name: [
            entry for feature in features for entry in (feature.inputs[name] if choices else [feature.inputs[name]])
        ]
        for name in features[0].inputs
    }
    padding = {"padding": True} if length is None else {"padding": "max_length", "max_length": length}
    padded = tokenizer.pad(rows, return_tensors="pt", **padding)
    if choices is None:
        return dict(padded)
    return {name: value.reshape(len(features), choices, -1) for name, value in padded.items()}
