"""Datasets of which the text alone is read."""

from __future__ import annotations

from optimum_ane.evaluation.columns import GLUE_COLUMNS, TEXT_NAMES, Wanted, find_column
from optimum_ane.evaluation.dataset_errors import checked_text
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.files import Table


def read_texts(spec: DatasetSpec) -> tuple[str, list[str]]:
    """Reads a dataset's texts, labels or not.

    Returns:
        What reports call the dataset, and N texts.

    Raises:
        DatasetError: The dataset is missing or flawed; the message names file, row and column.
    """
    spec.check_config()
    table = open_table(spec, header_of(spec, TEXT_NAMES))
    column = _column(spec, table)
    rows = read_rows(table, (column,), spec.max_samples)
    return table.name, [checked_text(value, table.name, row, column) for row, (value,) in rows]


def _column(spec: DatasetSpec, table: Table) -> str:
    if spec.is_glue and spec.config in GLUE_COLUMNS and spec.text_column is None:
        return GLUE_COLUMNS[spec.config][0]
    if spec.text_column is None and len(table.columns) == 1:
        return table.columns[0]
    return find_column(table, Wanted("text", "--text-column", spec.text_column, TEXT_NAMES))
