"""A labelled text dataset, from a local file or from the Hub, as a checkpoint's labels see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.columns import GLUE_COLUMNS, LABEL_NAMES, Columns, choose_columns
from optimum_ane.evaluation.dataset_errors import MAX_ROWS, MAX_TOTAL_CHARACTERS, checked_text, fault, listed, quoted
from optimum_ane.evaluation.files import SUFFIXES, Table, open_file
from optimum_ane.evaluation.hub_dataset import GLUE_REPOSITORIES, HubTable, glue_split
from optimum_ane.evaluation.labels import BY_NAME, LabelSpace, RawLabels
from optimum_ane.package.problem_types import ProblemType


@dataclass(frozen=True)
class DatasetSpec:
    """Which dataset, and where its texts and labels are.

    Attributes:
        dataset: Path of a `.tsv`, `.csv`, `.jsonl` or `.parquet` file, or the id of a dataset on the Hub.
        config: Config of a Hub dataset, such as `sst2` of `glue`; with a local file, the GLUE task whose metric
            is used.
        split: Split of a Hub dataset; by default `validation`, and `validation_matched` for GLUE's mnli.
        text_column: Name or 0-based number of the text column; guessed if None, as are the next two.
        text_pair_column: The second text, for pairs.
        label_column: The label.
        max_samples: Use only the first so many rows.
    """

    dataset: str
    config: str | None = None
    split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if not self.dataset:
            raise DatasetError("no dataset is named; give a file or the id of a dataset on the Hub")
        if self.max_samples is not None and self.max_samples < 1:
            raise DatasetError(f"{self.max_samples} samples are asked for; ask for 1 or more")


@dataclass(frozen=True)
class Examples:
    """Labelled texts, ready to be scored.

    Attributes:
        texts: N texts.
        text_pairs: Their N partners, or None.
        labels: int64 (N,); float64 (N,) for regression; int64 (N, L) of 0 and 1 for several labels a row.
        name: What reports call the dataset.
        metric_config: Which metrics fit: a key of `metrics.METRIC_CONFIGS`.
        label_mapping: How the dataset's labels were matched with the checkpoint's: "by name", "by id", "as values".
    """

    texts: list[str]
    text_pairs: list[str] | None
    labels: np.ndarray
    name: str
    metric_config: str
    label_mapping: str

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(spec: DatasetSpec, *, id2label: Mapping[Any, str], problem_type: ProblemType) -> Examples:
    """Loads a dataset whole and checks every row.

    Args:
        spec: The dataset.
        id2label: The checkpoint's labels, as in its config.
        problem_type: What the checkpoint predicts; see `labels.problem_type_of`.

    Raises:
        DatasetError: The dataset is missing or flawed; the message names file, row and column.
    """
    space = LabelSpace(id2label, problem_type)
    metric_config = _metric_config(spec, space)
    table = _open(spec, space)
    columns = _columns(spec, table)
    texts, pairs, rows, values = _read(table, columns, spec.max_samples)
    raw = RawLabels(table.name, columns.label, rows, values, table.class_names(columns.label))
    labels, mapping = space.encode(raw)
    _check_f1(table, raw, labels, mapping, metric_config)
    return Examples(texts, pairs, labels, table.name, metric_config, mapping)


def _is_local(dataset: str) -> bool:
    """Whether `--dataset` names a file: by what is there, by its suffix, or by the form of a path."""
    path = Path(dataset)
    looks_local = path.suffix.lower() in SUFFIXES or dataset.startswith((".", "/", "~")) or dataset.count("/") > 1
    return looks_local or "\\" in dataset or path.exists()


def _is_glue(spec: DatasetSpec) -> bool:
    return spec.dataset in GLUE_REPOSITORIES and not _is_local(spec.dataset)


def _open(spec: DatasetSpec, space: LabelSpace) -> Table:
    if not _is_local(spec.dataset):
        split = spec.split or (glue_split(spec.config or "") if _is_glue(spec) else "validation")
        return HubTable(spec.dataset, spec.config, split)
    if spec.split is not None:
        raise fault(spec.dataset, "a file has no splits", "leave out --split")

    def is_header(cells: Sequence[str]) -> bool:
        wanted = (spec.text_column, spec.text_pair_column, spec.label_column)
        if any(name is not None and not name.isdecimal() for name in wanted):
            return True
        place = -1
        if spec.label_column is not None and int(spec.label_column) < len(cells):
            place = int(spec.label_column)
        named = any(cell.strip().lower() in LABEL_NAMES for cell in cells)
        return named and not space.knows(cells[place])

    return open_file(Path(spec.dataset).expanduser(), is_header)


def _columns(spec: DatasetSpec, table: Table) -> Columns:
    text, pair, label = spec.text_column, spec.text_pair_column, spec.label_column
    if _is_glue(spec):
        if text is None and pair is None:
            text, pair = GLUE_COLUMNS[spec.config or ""]
        label = label or "label"
    return choose_columns(table.name, table.columns, headed=table.headed, text=text, pair=pair, label=label)


def _metric_config(spec: DatasetSpec, space: LabelSpace) -> str:
    from optimum_ane.evaluation.metrics import DEFAULT_CONFIGS, GLUE_CONFIGS, METRIC_CONFIGS

    name = DEFAULT_CONFIGS[space.problem_type]
    if _is_glue(spec):
        if spec.config not in GLUE_COLUMNS:
            given = f"GLUE has no scored task {quoted(spec.config)}" if spec.config else "GLUE is many datasets"
            raise fault(spec.dataset, given, f"name one with --dataset-config: {', '.join(GLUE_COLUMNS)}")
        name = spec.config
    elif _is_local(spec.dataset) and spec.config is not None:
        if spec.config not in GLUE_CONFIGS:
            what = f"a file has no configs, and {quoted(spec.config)} is no GLUE task whose metric could be used"
            raise fault(spec.dataset, what, f"leave out --dataset-config or name one of: {', '.join(GLUE_CONFIGS)}")
        name = spec.config
    wanted = METRIC_CONFIGS[name].problem_type
    if wanted != space.problem_type:
        what = f"{name} is scored on a {wanted} checkpoint, this one does {space.problem_type}"
        raise fault(spec.dataset, what, "take the dataset that the checkpoint was trained for")
    if "f1" in METRIC_CONFIGS[name].metrics and len(space) != 2:
        what = f"{name} is scored on 2 labels, the checkpoint has {len(space)}: {listed(space.names)}"
        raise fault(spec.dataset, what, "take the dataset that the checkpoint was trained for")
    return name


def _read(
    table: Table, columns: Columns, max_samples: int | None
) -> tuple[list[str], list[str] | None, list[int], list[Any]]:
    texts: list[str] = []
    pairs: list[str] | None = None if columns.pair is None else []
    numbers: list[int] = []
    labels: list[Any] = []
    characters = 0
    for row, values in table.rows([column for column in columns if column is not None]):
        texts.append(checked_text(values[0], table.name, row, columns.text))
        characters += len(texts[-1])
        if pairs is not None and columns.pair is not None:
            pairs.append(checked_text(values[1], table.name, row, columns.pair))
            characters += len(pairs[-1])
        numbers.append(row)
        labels.append(values[-1])
        if len(texts) == max_samples:
            break
        if len(texts) >= MAX_ROWS or characters > MAX_TOTAL_CHARACTERS:
            what = f"more than {MAX_ROWS:,} rows or {MAX_TOTAL_CHARACTERS:,} characters"
            raise fault(table.name, what, "take fewer with --max-samples", row=row)
    if not texts:
        raise fault(table.name, "there are column names and no rows", "a row holds a text and a label")
    return texts, pairs, numbers, labels


def _check_f1(table: Table, raw: RawLabels, labels: np.ndarray, mapping: str, metric_config: str) -> None:
    """Refuses an F1 score that would count the wrong class: it is that of label 1, here and in GLUE."""
    from optimum_ane.evaluation.metrics import METRIC_CONFIGS

    if "f1" not in METRIC_CONFIGS[metric_config].metrics or mapping != BY_NAME or raw.class_names is None:
        return
    if any(int(value) != label for value, label in zip(raw.values, labels, strict=True)):
        what = (
            f"the checkpoint numbers the labels {listed(raw.class_names)} the other way round: F1 would be another's"
        )
        raise fault(table.name, what, "swap the checkpoint's labels, or score a local copy without --dataset-config",
                    column=raw.column)  # fmt: skip
