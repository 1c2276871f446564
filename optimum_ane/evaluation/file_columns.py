"""Columns of files, images or sounds, as `datasets` stores them: `{"bytes": …, "path": …}`; or the bytes alone.

Files are read one at a time, when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.evaluation.dataset_errors import dataset_error, quoted
from optimum_ane.evaluation.files import ParquetFile, Table
from optimum_ane.evaluation.hub_dataset import HubTable


@dataclass(frozen=True)
class FileKind:
    """What the files of a column are.

    Attributes:
        name: In a word, with its article: `"an image"`.
        feature: The class of `datasets` that declares such a column.
        option: The command line's option that names the column.
        most_bytes: Largest file.
    """

    name: str
    feature: str
    option: str
    most_bytes: int


class FileColumn:
    """A column of files.

    Attributes:
        name: What messages call the dataset.
        column: The column.
    """

    def __init__(self, table: Table, column: str, count: int, kind: FileKind) -> None:
        self.name, self.column, self._count, self._kind = table.name, column, count, kind

    def __len__(self) -> int:
        """How many files there are."""
        return self._count

    def read(self, row: int) -> bytes:
        """A file; rows count from 0.

        Raises:
            DatasetError: The row holds none.
        """
        value = self._value(row)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            what = f"{self._kind.name}'s bytes are expected, found {quoted(value)}"
            if isinstance(value, dict) and value.get("path"):
                what = f"the row names the file {quoted(value['path'])} and does not hold it"
            remedy = f"write the dataset with its files in it, or name another column with {self._kind.option}"
            raise dataset_error(self.name, what, remedy, row=row + 1, column=self.column)
        return data

    def _value(self, row: int) -> Any:
        raise NotImplementedError


class ParquetColumn(FileColumn):
    """A column of a Parquet file, of which one row group is held at a time."""

    def __init__(self, table: ParquetFile, column: str, count: int, kind: FileKind) -> None:
        super().__init__(table, column, count, kind)
        self._table = table
        self._starts = table.group_starts()
        self._group = -1
        self._values: Any = None

    def _value(self, row: int) -> Any:
        group = max(index for index, start in enumerate(self._starts) if start <= row)
        if group != self._group:
            self._values = None  # before the next one is read: two would be held otherwise
            self._values, self._group = self._table.read_group(group, self.column), group
        return self._values[row - self._starts[group]].as_py()


class HubColumn(FileColumn):
    """A column of a dataset on the Hub, read from the cache of `datasets` row by row."""

    def __init__(self, table: HubTable, column: str, count: int, kind: FileKind) -> None:
        super().__init__(table, column, count, kind)
        self._files = table.files(column, kind.feature, kind.option)

    def read(self, row: int) -> bytes:
        """See `FileColumn.read`: of datasets that are folders on the Hub, `datasets` names files of its cache."""
        value = self._value(row)
        if value is not None and value["bytes"] is None and value["path"] and Path(value["path"]).is_file():
            return read_file(Path(value["path"]), self._kind.most_bytes)
        return super().read(row)

    def _value(self, row: int) -> Any:
        return self._files[row][self.column]


def file_column(table: Table, column: str, count: int, kind: FileKind) -> FileColumn:
    """The files of a column, of which the first `count` are used."""
    if isinstance(table, ParquetFile):
        return ParquetColumn(table, column, count, kind)
    if isinstance(table, HubTable):
        return HubColumn(table, column, count, kind)
    raise TypeError(f"{type(table).__name__} holds no files")


def read_file(path: Path, most_bytes: int) -> bytes:
    """Reads a file, of which no more is held than one byte above what it may have.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most_bytes + 1)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        remedy = "check its permissions" if path.exists() else "check the path"
        raise dataset_error(str(path), what, remedy) from error
