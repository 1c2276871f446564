"""Labels of a dataset, turned into what a checkpoint predicts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_ane.errors import CheckpointError, DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error, listed, quoted
from optimum_ane.package.problem_types import MULTI_LABEL, REGRESSION, ProblemType

BY_NAME = "by name"
BY_ID = "by id"
AS_VALUES = "as values"


def class_names_of_schema(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Names of a `ClassLabel` column, or of lists of them, from a Parquet schema's metadata; None without any.

    `datasets` stores its features as JSON under the key `huggingface`.
    """
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
        feature = feature.get("feature", feature)
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None  # written by something other than `datasets`: labels are taken as they stand
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


@dataclass(frozen=True)
class RawLabels:
    """Labels as the dataset holds them, and where.

    Attributes:
        name: The dataset, for error messages.
        column: The label column.
        rows: Row number of each value.
        values: The values: int, float, str, or a list of these for several labels a row.
        class_names: Names of the integer classes, where the dataset declares them.
    """

    name: str
    column: str
    rows: Sequence[int]
    values: Sequence[Any]
    class_names: tuple[str, ...] | None = None

    def error(self, index: int, what: str, remedy: str) -> DatasetError:
        """The error for the value at `index`."""
        return dataset_error(self.name, what, remedy, row=self.rows[index], column=self.column)


class LabelSpace:
    """The labels of a checkpoint, and how those of a dataset map onto them."""

    def __init__(self, id2label: Mapping[Any, str], problem_type: ProblemType) -> None:
        """Takes `config.id2label` and what `problem_type_of` says.

        Raises:
            CheckpointError: The ids are not 0, 1, …
        """
        by_id = {int(key): str(name) for key, name in id2label.items()}
        if sorted(by_id) != list(range(len(by_id))) or not by_id:
            raise CheckpointError(f"id2label in config.json numbers its labels {sorted(by_id)}; they must be 0, 1, …")
        self.names = tuple(by_id[index] for index in range(len(by_id)))
        self.problem_type = problem_type
        self._exact = {name: index for index, name in reversed(list(enumerate(self.names)))}
        folded = [name.strip().casefold() for name in self.names]
        # Two labels that differ in case alone are told apart by case alone.
        counts = Counter(folded)
        self._folded = {name: index for index, name in enumerate(folded) if counts[name] == 1}

    def __len__(self) -> int:
        return len(self.names)

    def knows(self, value: str) -> bool:
        """Whether a cell of a text file can be a label: this tells a row of data from a header."""
        if self.problem_type == REGRESSION:
            return finite_number(value) is not None
        parts = _parts(value) if self.problem_type == MULTI_LABEL and self._id_of_name(value) is None else [value]
        return all(self._id_of_name(part) is not None or self._id(part) is not None for part in parts)

    def encode(self, labels: RawLabels) -> tuple[np.ndarray, str]:
        """Maps a dataset's labels onto the checkpoint's.

        Names are compared without regard to case. Numbers are the checkpoint's ids, unless the dataset names its
        classes and the checkpoint knows those names: then names decide, for checkpoints of MNLI number their labels
        in several orders. The whole column is read one way, so a label named "1" is never taken for the id 1.

        Returns:
            The labels: int64 (N,) for one label of many, int64 (N, L) of 0 and 1 for several labels a row, float64
            (N,) for regression; and how they were matched: "by name", "by id" or "as values".

        Raises:
            DatasetError: A label that the checkpoint does not know.
        """
        if self.problem_type == REGRESSION:
            return self._encode_values(labels), AS_VALUES
        if self.problem_type == MULTI_LABEL:
            return self._encode_sets(labels)
        ids, mapping = self._encode_ids(labels)
        return np.asarray(ids, dtype=np.int64), mapping

    def _id_of_name(self, value: Any) -> int | None:
        if not isinstance(value, str):
            return None
        exact = self._exact.get(value)
        return exact if exact is not None else self._folded.get(value.strip().casefold())

    def _id(self, value: Any) -> int | None:
        """The value as an id of the checkpoint, or None."""
        number: int | None = None
        if isinstance(value, int):
            number = int(value)
        elif isinstance(value, float) and value.is_integer():
            number = int(value)  # pandas turns a column of integers with a gap into floats
        elif isinstance(value, str) and len(value) < 20 and value.strip().isascii() and value.strip().isdecimal():
            number = int(value)
        return number if number is not None and 0 <= number < len(self) else None

    def _encode_ids(self, labels: RawLabels) -> tuple[list[int], str]:
        self._check_single(labels)
        if labels.class_names is not None:
            labels = self._named_classes(labels)
        by_name = [self._id_of_name(value) for value in labels.values]
        if None not in by_name:
            return [index for index in by_name if index is not None], BY_NAME
        by_id = [self._id(value) for value in labels.values]
        if None not in by_id:
            return [index for index in by_id if index is not None], BY_ID
        # Whichever reading explains more of the column shows the true culprit.
        reading = by_name if by_name.count(None) < by_id.count(None) else by_id
        raise self._unknown(labels, reading.index(None))

    def _check_single(self, labels: RawLabels) -> None:
        """Refuses lists of labels where the checkpoint gives one label a row."""
        for index, value in enumerate(labels.values):
            if self.problem_type == MULTI_LABEL or not isinstance(value, (list, tuple, np.ndarray)):
                continue
            if all(isinstance(member, (int, float, str)) for member in value):
                what = f"there is a list of labels, {quoted(value)}, and the model gives one label a row"
                remedy = (
                    "name another column with --label-column, or, if the model was trained for several, say "
                    f'"problem_type": "{MULTI_LABEL}" in its config.json'
                )
                raise labels.error(index, what, remedy)

    def _named_classes(self, labels: RawLabels) -> RawLabels:
        """Replaces class numbers by the dataset's names for them, where the checkpoint knows any of these names."""
        names = labels.class_names or ()
        for index, value in enumerate(labels.values):
            if value == -1:
                what = "the row has no label (-1), as in the test splits whose labels are secret"
                raise labels.error(index, what, "take a labelled split, with --split validation")
            if not isinstance(value, int) or not 0 <= value < len(names):
                raise labels.error(index, f"{quoted(value)} is none of the dataset's classes", "mend the row")
        if all(self._id_of_name(name) is None for name in names):
            return labels
        named = [names[value] for value in labels.values]
        return RawLabels(labels.name, labels.column, labels.rows, named)

    def _encode_values(self, labels: RawLabels) -> np.ndarray:
        numbers = [finite_number(value) for value in labels.values]
        if None in numbers:
            index = numbers.index(None)
            what = f"{quoted(labels.values[index])} is not a finite number, which a regression checkpoint is scored on"
            raise labels.error(index, what, "mend the row, or name another column with --label-column")
        return np.asarray(numbers, dtype=np.float64)

    def _encode_sets(self, labels: RawLabels) -> tuple[np.ndarray, str]:
        """Several labels a row: a list of ids or names, or one 0 or 1 for each label of the checkpoint."""
        sets: list[Sequence[Any]] = []
        for index, value in enumerate(labels.values):
            if isinstance(value, str):
                sets.append([value] if self._id_of_name(value) is not None else _parts(value))
            elif isinstance(value, (list, tuple, np.ndarray)):
                sets.append(list(value))
            elif value is None:
                raise labels.error(index, "there is no list of labels", "write an empty list for none")
            else:
                sets.append([value])
        indicators = np.zeros((len(sets), len(self)), dtype=np.int64)
        if all(len(members) == len(self) and all(_is_indicator(member) for member in members) for members in sets):
            indicators[:] = [[int(member) for member in members] for members in sets]
            return indicators, BY_ID
        owners = [index for index, members in enumerate(sets) for _ in members]
        flat = RawLabels(
            labels.name,
            labels.column,
            [labels.rows[owner] for owner in owners],
            [member for members in sets for member in members],
            labels.class_names,
        )
        ids, mapping = self._encode_ids(flat)
        indicators[owners, ids] = 1
        return indicators, mapping

    def _unknown(self, labels: RawLabels, index: int) -> DatasetError:
        known = listed([f"{name} ({number})" for number, name in enumerate(self.names)])
        what = f"the model does not know the label {quoted(labels.values[index])}; it knows {known}"
        remedy = "mend the row, or name another column with --label-column"
        if labels.rows[index] == 1:
            remedy = "if this row is a header, name its columns with --text-column and --label-column"
        return labels.error(index, what, remedy)


def _parts(cell: str) -> list[str]:
    """The labels of one cell, which commas separate; an empty cell has none."""
    return [part.strip() for part in cell.split(",")] if cell.strip() else []


def _is_indicator(value: Any) -> bool:
    return value in (0, 1) or value in ("0", "1")


def finite_number(value: Any) -> float | None:
    """The value, a number or one written in a text, as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
