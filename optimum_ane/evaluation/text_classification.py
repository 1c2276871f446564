"""Text classification, scored as GLUE scores it: one label of many, several labels a row, or a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.bootstrap import score_of_labels
from optimum_ane.evaluation.columns import GLUE_COLUMNS, LABEL_NAMES, Columns, choose_columns
from optimum_ane.evaluation.dataset_errors import checked_text, dataset_error, listed, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, open_table, read_rows
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature, longer_rows, model_inputs
from optimum_ane.evaluation.files import Table
from optimum_ane.evaluation.glue_metric import DEFAULT_CONFIGS, GLUE_CONFIGS, METRIC_CONFIGS, GlueMetric
from optimum_ane.evaluation.labels import BY_NAME, LabelSpace, RawLabels
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.package.problem_types import MULTI_LABEL, REGRESSION, ProblemType, problem_type_of


@dataclass(frozen=True)
class LabelledTexts(Examples):
    """Labelled texts, ready to be scored.

    Attributes:
        texts: N texts.
        text_pairs: Their N partners, or None.
        labels: int64 (N,); float64 (N,) for regression; int64 (N, L) of 0 and 1 for several labels a row.
    """

    texts: list[str]
    text_pairs: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)


class TextClassification(Evaluator[LabelledTexts, Feature, np.ndarray]):
    """Scores a text classifier. Columns: the text, its partner where there are pairs, the label."""

    task: ClassVar[str] = "text-classification"

    @property
    def problem_type(self) -> ProblemType:
        """What the checkpoint predicts, by transformers' own name."""
        return problem_type_of(self.config)

    def load(self, spec: DatasetSpec) -> LabelledTexts:
        """Loads labelled texts; their labels become the checkpoint's, or numbers for regression."""
        spec.check_options(self.task, "text_column", "text_pair_column", "label_column")
        space = LabelSpace(self.config.id2label, self.problem_type)
        metric_config = _metric_config(spec, space)
        table = open_table(spec, lambda cells: _is_header(spec, space, cells))
        columns = _columns(spec, table)
        texts, pairs, rows, values = _read(table, columns, spec.max_samples)
        raw = RawLabels(table.name, columns.label, rows, values, table.class_names(columns.label))
        labels, mapping = space.encode(raw)
        _check_f1(table, raw, labels, mapping, metric_config)
        return LabelledTexts(table.name, metric_config, mapping, texts, pairs, labels)

    def encode(
        self, tokenizer: Any, examples: LabelledTexts, rows: Sequence[int], sequence_length: int
    ) -> Encoded[Feature]:
        """Makes one feature a row; what is longer than the package loses its end."""
        texts = [examples.texts[row] for row in rows]
        pairs = None if examples.text_pairs is None else [examples.text_pairs[row] for row in rows]
        return encode_texts(tokenizer, texts, pairs, rows, sequence_length)

    def answers(self, features: Sequence[Feature], outputs: Sequence[Outputs]) -> Iterable[np.ndarray]:
        """Keeps the logits, (L,) for each row."""
        return [output["logits"] for output in outputs]

    def score(self, examples: LabelledTexts, answers: Sequence[np.ndarray]) -> Scores:
        """Measures GLUE's metrics."""
        predictions = self._predictions(np.stack(answers), examples)
        metrics = GlueMetric(examples.metric_config).compute(predictions=predictions, references=examples.labels)
        primary = METRIC_CONFIGS[examples.metric_config].primary
        resampled = score_of_labels(primary, predictions, examples.labels)
        if self.problem_type == REGRESSION:
            return Scores(metrics, resampled, None, None)
        same = predictions == examples.labels
        right = same.all(axis=1) if same.ndim == 2 else same
        return Scores(metrics, resampled, predictions, int(right.sum()))

    def _predictions(self, logits: np.ndarray, examples: LabelledTexts) -> np.ndarray:
        """int64 (N,) label ids, int64 (N, L) of 0 and 1, or float64 (N,) values."""
        if self.problem_type == REGRESSION:
            if logits.shape[1] != 1:
                raise DatasetError(f"a regression checkpoint has one output, this one has {logits.shape[1]}")
            return logits[:, 0].astype(np.float64)
        if self.problem_type == MULTI_LABEL:
            if examples.labels.shape != logits.shape:
                raise DatasetError(f"labels have the shape {examples.labels.shape}, logits {logits.shape}")
            return (logits > 0).astype(np.int64)  # a probability above one half, as transformers' pipeline has it
        if int(examples.labels.max()) >= logits.shape[1]:
            raise DatasetError(f"label {examples.labels.max()} occurs, the model has {logits.shape[1]} outputs")
        return logits.argmax(axis=1)


def encode_texts(
    tokenizer: Any, texts: list[str], pairs: list[str] | None, rows: Sequence[int], sequence_length: int
) -> Encoded[Feature]:
    """Tokenises texts, or pairs of them, one feature each.

    Args:
        tokenizer: The checkpoint's tokenizer.
        texts: N texts.
        pairs: Their N partners, or None.
        rows: The dataset's row of each.
        sequence_length: Most tokens of a feature.
    """
    # Lengths before truncation; verbose=False spares the user transformers' warning about each long text.
    whole = tokenizer(texts, pairs, padding=False, truncation=False, verbose=False)
    encoding = tokenizer(texts, pairs, padding=False, truncation=True, max_length=sequence_length)
    features = [Feature(model_inputs(tokenizer, encoding, index), row) for index, row in enumerate(rows)]
    return Encoded(features, longer_rows(whole, rows, sequence_length))


def _is_header(spec: DatasetSpec, space: LabelSpace, cells: Sequence[str]) -> bool:
    wanted = (spec.text_column, spec.text_pair_column, spec.label_column)
    if any(name is not None and not name.isdecimal() for name in wanted):
        return True
    place = -1
    if spec.label_column is not None and int(spec.label_column) < len(cells):
        place = int(spec.label_column)
    named = any(cell.strip().lower() in LABEL_NAMES for cell in cells)
    return named and not space.knows(cells[place])


def _columns(spec: DatasetSpec, table: Table) -> Columns:
    text, pair, label = spec.text_column, spec.text_pair_column, spec.label_column
    if spec.is_glue:
        if text is None and pair is None:
            text, pair = GLUE_COLUMNS[spec.config or ""]
        label = label or "label"
    return choose_columns(table.name, table.columns, headed=table.headed, text=text, pair=pair, label=label)


def _metric_config(spec: DatasetSpec, space: LabelSpace) -> str:
    name = DEFAULT_CONFIGS[space.problem_type]
    if spec.is_glue:
        if spec.config not in GLUE_COLUMNS:
            given = f"GLUE has no scored task {quoted(spec.config)}" if spec.config else "GLUE is many datasets"
            raise dataset_error(spec.dataset, given, f"name one with --dataset-config: {', '.join(GLUE_COLUMNS)}")
        name = spec.config
    elif spec.is_local and spec.config is not None:
        spec.check_config(*GLUE_CONFIGS)
        name = spec.config
    wanted = METRIC_CONFIGS[name].problem_type
    if wanted != space.problem_type:
        what = f"{name} is scored on a {wanted} checkpoint, this one does {space.problem_type}"
        raise dataset_error(spec.dataset, what, "take the dataset that the checkpoint was trained for")
    if "f1" in METRIC_CONFIGS[name].metrics and len(space) != 2:
        what = f"{name} is scored on 2 labels, the checkpoint has {len(space)}: {listed(space.names)}"
        raise dataset_error(spec.dataset, what, "take the dataset that the checkpoint was trained for")
    return name


def _read(
    table: Table, columns: Columns, max_samples: int | None
) -> tuple[list[str], list[str] | None, list[int], list[Any]]:
    texts: list[str] = []
    pairs: list[str] | None = None if columns.pair is None else []
    numbers: list[int] = []
    labels: list[Any] = []
    for row, values in read_rows(table, [column for column in columns if column is not None], max_samples):
        texts.append(checked_text(values[0], table.name, row, columns.text))
        if pairs is not None and columns.pair is not None:
            pairs.append(checked_text(values[1], table.name, row, columns.pair))
        numbers.append(row)
        labels.append(values[-1])
    return texts, pairs, numbers, labels


def _check_f1(table: Table, raw: RawLabels, labels: np.ndarray, mapping: str, metric_config: str) -> None:
    """Refuses an F1 score that would count the wrong class: it is that of label 1, here and in GLUE."""
    if "f1" not in METRIC_CONFIGS[metric_config].metrics or mapping != BY_NAME or raw.class_names is None:
        return
    if any(int(value) != label for value, label in zip(raw.values, labels, strict=True)):
        what = (
            f"the checkpoint numbers the labels {listed(raw.class_names)} the other way round: F1 would be another's"
        )
        remedy = "swap the checkpoint's labels, or score a local copy without --dataset-config"
        raise dataset_error(table.name, what, remedy, column=raw.column)
