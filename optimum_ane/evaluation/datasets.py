"""Which dataset is meant, and its rows, whether they come from a local file or from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import MAX_ROWS, MAX_TOTAL_CHARACTERS, dataset_error, quoted
from optimum_ane.evaluation.files import SUFFIXES, Table, open_file
from optimum_ane.evaluation.hub_dataset import GLUE_REPOSITORIES, HubTable, glue_split

COLUMN_OPTIONS = {
    "text_column": "--text-column",
    "text_pair_column": "--text-pair-column",
    "label_column": "--label-column",
    "choices_columns": "--choices-column",
    "image_column": "--image-column",
    "audio_column": "--audio-column",
}
"""The fields of `DatasetSpec` that name columns, with their options on the command line."""

_TASK_OPTIONS = COLUMN_OPTIONS | {"stride": "--stride"}
"""The fields that some tasks read and others do not."""


@dataclass(frozen=True)
class DatasetSpec:
    """Which dataset, and where its texts and labels are.

    What the columns hold depends on the task: see the evaluator's own file, or `optimum-cli ane evaluate --help`.

    Attributes:
        dataset: Path of a `.tsv`, `.csv`, `.jsonl`, `.parquet` or `.txt` file, of a folder of images or sounds, or the
            id of a dataset on the Hub.
        config: Config of a Hub dataset, such as `sst2` of `glue`; with a local file, the GLUE task whose metric
            is used, or the version of SQuAD's.
        split: Split of a Hub dataset; by default `validation`, and `validation_matched` for GLUE's mnli.
        text_column: Name or 0-based number of the text column; guessed if None, as are the next ones.
        text_pair_column: The second text, for pairs.
        label_column: The label: what is right.
        max_samples: Use only the first so many rows.
        choices_columns: The choices: one column that holds lists, or one column for each choice.
        stride: For language models, how many tokens further each window begins; by default as far as it can be.
        image_column: The images.
        audio_column: The sounds.
    """

    dataset: str
    config: str | None = None
    split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    max_samples: int | None = None
    choices_columns: tuple[str, ...] | None = None
    stride: int | None = None
    image_column: str | None = None
    audio_column: str | None = None

    def __post_init__(self) -> None:
        if not self.dataset:
            raise DatasetError("no dataset is named; give a file or the id of a dataset on the Hub")
        if self.max_samples is not None and self.max_samples < 1:
            raise DatasetError(f"{self.max_samples} samples are asked for; ask for 1 or more")
        if self.stride is not None and self.stride < 1:
            raise DatasetError(f"a --stride of {self.stride} goes nowhere; take 1 or more")

    @property
    def is_local(self) -> bool:
        """Whether `dataset` names a file: by what is there, by its suffix, or by the form of a path."""
        path = Path(self.dataset)
        looks_local = path.suffix.lower() in SUFFIXES or self.dataset.startswith((".", "/", "~"))
        return looks_local or self.dataset.count("/") > 1 or "\\" in self.dataset or path.exists()

    @property
    def is_glue(self) -> bool:
        """Whether it is the GLUE benchmark on the Hub."""
        return self.dataset in GLUE_REPOSITORIES and not self.is_local

    def check_options(self, task: str, *used: str) -> None:
        """Refuses options that a task does not read.

        Args:
            task: Optimum's name of the task.
            used: The fields that it reads: columns, and `stride`.

        Raises:
            DatasetError: Another one is given.
        """
        for field, option in _TASK_OPTIONS.items():
            if field not in used and getattr(self, field) is not None:
                raise dataset_error(self.dataset, f"{option} says nothing to {task}", "leave it out")

    def check_config(self, *names: str) -> None:
        """Refuses a config for a local file, which has none, unless it is the name of a metric.

        Args:
            names: The metrics that a config can name.

        Raises:
            DatasetError: It names something else.
        """
        if not self.is_local or self.config is None or self.config in names:
            return
        what = f"a file has no configs, and {quoted(self.config)} names no metric of the task"
        remedy = "leave out --dataset-config" + (f" or name one of: {', '.join(names)}" if names else "")
        raise dataset_error(self.dataset, what, remedy)


def open_table(spec: DatasetSpec, is_header: Callable[[Sequence[str]], bool]) -> Table:
    """Opens a file, or fetches a split from the Hub.

    Args:
        spec: The dataset.
        is_header: Decides whether the first row of a `.tsv` or `.csv` names the columns.

    Raises:
        DatasetError: It is missing, empty or damaged.
    """
    if not spec.is_local:
        split = spec.split or (glue_split(spec.config or "") if spec.is_glue else "validation")
        return HubTable(spec.dataset, spec.config, split)
    if spec.split is not None:
        raise dataset_error(spec.dataset, "a file has no splits", "leave out --split")
    return open_file(Path(spec.dataset).expanduser(), is_header)


def header_of(spec: DatasetSpec, usual: Collection[str]) -> Callable[[Sequence[str]], bool]:
    """Tells a row of column names by the options given, or by names that such columns usually have.

    Args:
        spec: The dataset.
        usual: The usual names, in lower case.
    """
    given = [spec.text_column, spec.text_pair_column, spec.label_column, spec.audio_column]
    given += spec.choices_columns or ()
    is_named = any(name is not None and not name.isdecimal() for name in given)
    return lambda cells: is_named or any(cell.strip().lower() in usual for cell in cells)


def read_rows(table: Table, columns: Sequence[str], max_samples: int | None) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields each row's number and its values in the order of `columns`, in bounded memory.

    Args:
        table: The rows.
        columns: The columns to read.
        max_samples: How many rows at most.

    Raises:
        DatasetError: There is no row, there are too many, or they hold too much text.
    """
    characters, count = 0, 0
    for row, values in table.rows(columns):
        if count >= MAX_ROWS or characters > MAX_TOTAL_CHARACTERS:
            what = f"{MAX_ROWS:,} rows" if count >= MAX_ROWS else f"{MAX_TOTAL_CHARACTERS:,} characters"
            what = f"more than {what}, which is the limit"
            raise dataset_error(table.name, what, "take fewer with --max-samples", row=row)
        yield row, values
        count += 1
        characters += sum(map(_size, values))
        if count == max_samples:
            break
    if count == 0:
        raise dataset_error(table.name, "there are column names and no rows", "add rows, or name another file")


def _size(value: Any) -> int:
    """Characters of a value and of all that it holds; an entry without any counts as one."""
    size, left = 0, [value]  # no recursion: the depth is the file's
    while left:
        entry = left.pop()
        if isinstance(entry, dict):
            left += entry.values()
        elif isinstance(entry, (list, tuple)):
            left += entry
        else:
            size += len(entry) if isinstance(entry, str) else 1
    return size
