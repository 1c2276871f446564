"""Datasets of files, sounds or images, with texts beside them: a folder with a list, Parquet, or one of the Hub."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, Protocol

from optimum_ane.evaluation.columns import Wanted, check_different, find_column
from optimum_ane.evaluation.dataset_errors import checked_list, checked_text, dataset_error, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.file_columns import FileKind, file_column, read_file
from optimum_ane.evaluation.files import ParquetFile, Table, open_file
from optimum_ane.evaluation.hub_dataset import HubTable

LISTS = ("metadata.csv", "metadata.jsonl", "transcripts.tsv", "transcripts.csv", "captions.tsv", "captions.csv")
"""What names the files of a folder and holds the texts, the first that there is."""

TEXT_NAMES = ("text", "sentence", "transcription", "transcript", "caption", "captions", "normalized_text", "raw_text")


class Place(NamedTuple):
    """Where a file stands, for messages.

    Attributes:
        name: The file, or the dataset.
        row: The dataset's row, 1-based.
        column: The dataset's column.
    """

    name: str
    row: int | None = None
    column: str | None = None


class Files(Protocol):
    """Files of a dataset, which are read one at a time; rows count from 0."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, row: int) -> bytes:
        """A file.

        Raises:
            DatasetError: It cannot be read.
        """
        ...

    def place(self, row: int) -> Place:
        """Where it stands."""
        ...


@dataclass(frozen=True)
class DescribedKind:
    """Files of one kind, as datasets have them.

    Attributes:
        files: What they are.
        word: The same in a word, for messages: `"audio"`.
        given: What the option that names their column says.
        names: Usual names of the column, in lower case, best first.
        suffixes: Of the files, in lower case.
    """

    files: FileKind
    word: str
    given: str | None
    names: tuple[str, ...]
    suffixes: Collection[str]


@dataclass(frozen=True)
class DescribedFiles:
    """What was found.

    Attributes:
        name: What reports and messages call the dataset.
        files: N files.
        texts: N lists of texts, one each where the dataset has one.
    """

    name: str
    files: Files
    texts: list[list[str]]


class FolderFiles:
    """Files of a folder.

    Attributes:
        paths: In the order of the rows.
    """

    def __init__(self, paths: Sequence[Path], most_bytes: int) -> None:
        self.paths, self._most_bytes = tuple(paths), most_bytes

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def read(self, row: int) -> bytes:
        """See `Files.read`."""
        return read_file(self.paths[row], self._most_bytes)

    def place(self, row: int) -> Place:
        """See `Files.place`."""
        return Place(str(self.paths[row]))


class ColumnFiles:
    """Files of a column."""

    def __init__(self, table: Table, column: str, count: int, kind: FileKind) -> None:
        self._column = file_column(table, column, count, kind)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._column)

    def read(self, row: int) -> bytes:
        """See `Files.read`."""
        return self._column.read(row)

    def place(self, row: int) -> Place:
        """See `Files.place`."""
        return Place(self._column.name, row + 1, self._column.column)


def open_described(spec: DatasetSpec, kind: DescribedKind) -> DescribedFiles:
    """Opens a dataset of files with texts.

    A folder holds one of `LISTS`, which names its files; such a list may also be named itself. Without a header its
    columns are the file, then the text.

    Args:
        spec: The dataset.
        kind: What its files are.

    Raises:
        DatasetError: It is missing, empty, of another kind, without texts, or its list names files elsewhere.
    """
    path = Path(spec.dataset).expanduser()
    is_header = header_of(spec, (*kind.names, *TEXT_NAMES))
    if spec.is_local and path.is_dir():
        if spec.split is not None:
            raise dataset_error(spec.dataset, "--split says nothing to a folder", "leave it out")
        found = next((path / name for name in LISTS if (path / name).is_file()), None)
        if found is None:
            remedy = "write one, with the name of a file and its text on each line"
            raise dataset_error(spec.dataset, f"the folder holds none of {', '.join(LISTS)}", remedy)
        return _open_list(spec, open_file(found, is_header), path, kind)
    table = open_table(spec, is_header)
    if not isinstance(table, ParquetFile | HubTable):
        return _open_list(spec, table, path.parent, kind)
    column, text = _columns(spec, table, kind)
    texts = [_texts(value, table, row, text) for row, (value,) in read_rows(table, [text], spec.max_samples)]
    return DescribedFiles(table.name, ColumnFiles(table, column, len(texts), kind.files), texts)


def _open_list(spec: DatasetSpec, table: Table, folder: Path, kind: DescribedKind) -> DescribedFiles:
    column, text = _columns(spec, table, kind)
    paths, texts = [], []
    for row, (name, value) in read_rows(table, [column, text], spec.max_samples):
        paths.append(_path_of(name, folder, table.name, row, column, kind))
        texts.append(_texts(value, table, row, text))
    return DescribedFiles(str(folder), FolderFiles(paths, kind.files.most_bytes), texts)


def _columns(spec: DatasetSpec, table: Table, kind: DescribedKind) -> tuple[str, str]:
    if len(table.columns) == 2 and not table.headed and kind.given is None and spec.text_column is None:
        return table.columns[0], table.columns[1]
    column = find_column(table, Wanted(kind.word, kind.files.option, kind.given, kind.names))
    text = find_column(table, Wanted("text", "--text-column", spec.text_column, TEXT_NAMES))
    check_different(table, (column, text), f"{kind.files.option} and --text-column")
    return column, text


def _texts(value: Any, table: Table, row: int, column: str) -> list[str]:
    """One text, or several that are all right."""
    if isinstance(value, str) or value is None:
        return [checked_text(value, table.name, row, column)]
    texts = checked_list(value, table.name, row, column, "texts")
    if not texts:
        raise dataset_error(table.name, "the list of texts is empty", "remove the row", row=row, column=column)
    return [checked_text(each, table.name, row, column) for each in texts]


def _path_of(value: Any, folder: Path, name: str, row: int, column: str, kind: DescribedKind) -> Path:
    """The file that a list names, which lies in its folder."""
    text = checked_text(value, name, row, column)
    parts = PurePosixPath(text)
    if not text or PureWindowsPath(text).is_absolute() or parts.is_absolute() or ".." in parts.parts:
        what = f"{quoted(text)} is no file of the list's own folder"
        raise dataset_error(name, what, "name files relative to it", row=row, column=column)
    path = folder / parts
    if path.suffix.lower() not in kind.suffixes:
        what = f"{quoted(text)} is no {kind.files.name.split()[-1]} that is read: {', '.join(kind.suffixes)}"
        remedy = f"convert it, or name another column with {kind.files.option}"
        raise dataset_error(name, what, remedy, row=row, column=column)
    return path
