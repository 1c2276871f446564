"""Multiple choice, scored by how often the right choice has the highest score, as SWAG does."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from optimum_ane.evaluation.bootstrap import score_of_labels
from optimum_ane.evaluation.columns import (
    Wanted,
    check_different,
    find_column,
    find_optional_column,
    named_column,
)
from optimum_ane.evaluation.dataset_errors import checked_list, checked_text, dataset_error, listed, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature, longer_rows, model_inputs
from optimum_ane.evaluation.files import Table
from optimum_ane.evaluation.glue_metric import GlueMetric
from optimum_ane.evaluation.labels import finite_number
from optimum_ane.evaluation.model_answers import Outputs

CONTEXT_NAMES = ("sent1", "ctx_a", "context", "article", "passage", "premise", "goal", "question", "ctx", "sentence")
"""Names of columns of what comes first: SWAG's, HellaSwag's, RACE's, COPA's, PIQA's and others', best first."""

START_NAMES = ("sent2", "ctx_b", "question")
"""Names of columns of what each choice goes on from."""

CHOICES_NAMES = ("choices", "endings", "options")
"""Names of columns of lists of choices."""

LABEL_NAMES = ("label", "answer", "answerkey", "labels", "gold_label", "target")
"""Names of columns of the right choice."""

MOST_CHOICES = 26
"""A letter each."""

_CHOICE_NAME = re.compile(r"(ending|choice|option|answer|sol|solution)_?(\d{1,2})", re.IGNORECASE)


@dataclass(frozen=True)
class Choices(Examples):
    """Beginnings with choices of how they go on.

    Attributes:
        contexts: N texts that come first.
        choices: A list of two or more texts for each; what they share is part of each.
        labels: The number of the right one, from 0.
    """

    contexts: list[str]
    choices: list[list[str]]
    labels: list[int]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.contexts)


class _Columns(NamedTuple):
    context: str
    start: str | None
    choices: tuple[str, ...]
    label: str


class MultipleChoice(Evaluator[Choices, Feature, int]):
    """Scores a multiple-choice model. Columns: the context, what choices start with, the choices, the right one.

    The model reads pairs: the context, and a choice with what it starts with before it. Choices are a list of texts,
    the structure `{"text": [...], "label": [...]}` of CommonsenseQA and ARC, or columns with numbered names. The
    right one is its number from 0, its letter, or its label in that structure.
    """

    task: ClassVar[str] = "multiple-choice"

    def load(self, spec: DatasetSpec) -> Choices:
        """Loads contexts with choices."""
        spec.check_options(self.task, "text_column", "text_pair_column", "label_column", "choices_columns")
        spec.check_config()
        usual = {*CONTEXT_NAMES, *START_NAMES, *CHOICES_NAMES, *LABEL_NAMES}
        table = open_table(spec, header_of(spec, usual))
        columns = _columns(spec, table)
        contexts, choices, labels = [], [], []
        names = [name for name in (columns.context, columns.start, columns.label) if name is not None]
        for row, values in read_rows(table, (*names, *columns.choices), spec.max_samples):
            contexts.append(checked_text(values[0], table.name, row, columns.context))
            start = "" if columns.start is None else checked_text(values[1], table.name, row, columns.start)
            texts, marks = _choices(values[len(names) :], table.name, row, columns.choices)
            labels.append(_label(values[len(names) - 1], marks, table.name, row, columns.label))
            choices.append([f"{start} {text}".strip() if start else text for text in texts])
        return Choices(table.name, "accuracy", None, contexts, choices, labels)

    def encode(self, tokenizer: Any, examples: Choices, rows: Sequence[int], sequence_length: int) -> Encoded[Feature]:
        """Makes one feature a row, of all its choices; of pairs longer than the package, the longer text is cut."""
        contexts = [examples.contexts[row] for row in rows for _ in examples.choices[row]]
        choices = [choice for row in rows for choice in examples.choices[row]]
        owners = [row for row in rows for _ in examples.choices[row]]
        whole = tokenizer(contexts, choices, padding=False, truncation=False, verbose=False)
        encoding = tokenizer(contexts, choices, padding=False, truncation=True, max_length=sequence_length)
        features, place = [], 0
        for row in rows:
            count = len(examples.choices[row])
            inputs = [model_inputs(tokenizer, encoding, index) for index in range(place, place + count)]
            features.append(Feature({name: [one[name] for one in inputs] for name in inputs[0]}, row))
            place += count
        return Encoded(features, longer_rows(whole, owners, sequence_length))

    def answers(self, features: Sequence[Feature], outputs: Sequence[Outputs]) -> Iterable[int]:
        """Keeps the number of the choice with the highest score."""
        return [int(output["logits"].argmax()) for output in outputs]

    def score(self, examples: Choices, answers: Sequence[int]) -> Scores:
        """Measures accuracy."""
        predictions, labels = np.array(answers), np.array(examples.labels)
        metrics = GlueMetric("accuracy").compute(predictions=predictions, references=labels)
        resampled = score_of_labels("accuracy", predictions, labels)
        return Scores(metrics, resampled, predictions, int((predictions == labels).sum()))


def _columns(spec: DatasetSpec, table: Table) -> _Columns:
    context = find_column(table, Wanted("context", "--text-column", spec.text_column, CONTEXT_NAMES))
    starts = tuple(name for name in START_NAMES if name != context.strip().lower())
    start = find_optional_column(table, Wanted("start", "--text-pair-column", spec.text_pair_column, starts))
    label = find_column(table, Wanted("label", "--label-column", spec.label_column, LABEL_NAMES))
    if spec.choices_columns is not None:
        choices = tuple(named_column(table.name, table.columns, name) for name in spec.choices_columns)
    else:
        choices = tuple(_usual_choices(table))
    used = [column for column in (context, start, *choices, label) if column is not None]
    check_different(table, used, "--text-column, --text-pair-column, --choices-column and --label-column")
    return _Columns(context, start, choices, label)


def _usual_choices(table: Table) -> Iterator[str]:
    """A column of lists, or columns that are numbered one after the other."""
    known = {column.strip().lower(): column for column in reversed(table.columns)} if table.headed else {}
    for name in CHOICES_NAMES:
        if name in known:
            yield known[name]
            return
    numbered: dict[str, dict[int, str]] = {}
    for column in known.values():
        found = _CHOICE_NAME.fullmatch(column.strip())
        if found is not None:
            numbered.setdefault(found[1].lower(), {})[int(found[2])] = column
    for places in numbered.values():
        first = min(places)
        if len(places) > 1 and sorted(places) == list(range(first, first + len(places))):
            yield from (places[place] for place in sorted(places))
            return
    what = f"no column of choices is recognised among: {listed(table.columns)}"
    raise dataset_error(table.name, what, "name it, or one for each choice, with --choices-column")


def _choices(values: Sequence[Any], name: str, row: int, columns: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The choices of a row, and what labels call them."""
    marks: list[Any] | None = None
    if len(columns) == 1:
        value = values[0]
        if isinstance(value, dict):
            marks = value.get("label")
            value = value.get("text")
        values = checked_list(value, name, row, columns[0], "choices")
        columns = [columns[0]] * len(values)
    if not 2 <= len(values) <= MOST_CHOICES:
        what = f"{len(values)} choices, where 2 to {MOST_CHOICES} make a question"
        raise dataset_error(name, what, "mend the row", row=row, column=columns[0] if columns else None)
    texts = [checked_text(value, name, row, column) for value, column in zip(values, columns, strict=True)]
    letters = tuple(string.ascii_uppercase[: len(texts)])
    if not isinstance(marks, list) or len(marks) != len(texts):
        return texts, letters
    return texts, tuple(str(mark) for mark in marks)


def _label(value: Any, marks: Sequence[str], name: str, row: int, column: str) -> int:
    """The number of the right choice, from 0."""
    if isinstance(value, str) and value.strip() in marks:
        return marks.index(value.strip())
    number = finite_number(value)
    if number is None or not number.is_integer():
        what = f"{quoted(value)} is neither the number nor the letter of a choice"
        remedy = "mend the row, or name another column with --label-column"
        raise dataset_error(name, what, remedy, row=row, column=column)
    if number == -1:
        what = "the row has no label (-1), as in the test splits whose labels are secret"
        raise dataset_error(name, what, "take a labelled split, with --split validation", row=row, column=column)
    if not 0 <= number < len(marks):
        what = f"label {quoted(value)} of {len(marks)} choices, which count from 0"
        raise dataset_error(name, what, "mend the row", row=row, column=column)
    return int(number)
