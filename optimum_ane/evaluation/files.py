"""Local dataset files, read row by row in bounded memory. Nothing in them is ever executed.

A row's number is 1-based; in text files it is the line that an editor shows (where a quoted CSV field spans lines:
the record's first line). Wholly empty lines are skipped.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import (
    MAX_ENTRIES,
    MAX_FIELD_CHARACTERS,
    MAX_RECORD_BYTES,
    dataset_error,
    listed,
    quoted,
)
from optimum_ane.evaluation.labels import class_names_of_schema

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet", ".txt")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET_BATCH_ROWS = 256
_PARQUET_GROUP_BYTES = 2 * 1024**3
_PARQUET_GROUP_VALUES = 100_000_000


class Table(Protocol):
    """Rows under named columns, wherever they come from."""

    name: str
    """What error messages and reports call it."""

    columns: tuple[str, ...]
    """Column names; in a text file without a header the numbers "0", "1", …"""

    headed: bool
    """Whether the names were given by the data, rather than counted."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields each row's number and its values in the order of `columns`."""
        ...

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Names of the integer classes of a column, where the data declares them."""
        ...


def open_file(path: Path, is_header: Callable[[Sequence[str]], bool]) -> Table:
    """Opens a dataset file by its suffix.

    Args:
        path: A `.tsv` (no quoting, as GLUE's files), `.csv` (standard quoting), `.jsonl`, `.parquet` or `.txt` file.
        is_header: Decides whether the first row of a `.tsv` or `.csv` names the columns.

    Raises:
        DatasetError: Missing, of another kind, empty, or damaged.
    """
    name = str(path)
    try:
        if path.is_dir():
            raise dataset_error(name, "is a directory", "name a file inside it, or the Hub's dataset by its full id")
        if path.suffix.lower() not in SUFFIXES:
            what = f"files of kind {quoted(path.suffix)} are not read"
            raise dataset_error(name, what, f"use one of {', '.join(SUFFIXES)}")
        if not path.exists():
            raise dataset_error(name, "there is no such file", "check the path")
        if not path.is_file():
            raise dataset_error(name, "is not a regular file", "it is read twice: save it as a file first")
        if path.stat().st_size == 0:
            raise dataset_error(name, "the file is empty", "a row holds one example")
        match path.suffix.lower():
            case ".tsv":
                return DelimitedFile(path, "\t", quoting=False, is_header=is_header)
            case ".csv":
                return DelimitedFile(path, ",", quoting=True, is_header=is_header)
            case ".jsonl":
                return JsonLinesFile(path)
            case ".txt":
                return TextFile(path)
            case _:
                return ParquetFile(path)
    except OSError as error:
        raise dataset_error(name, f"cannot be read ({error.strerror or error})", "check its permissions") from error


def _column_at(line: str, delimiter: str | None, quoting: bool, position: int | None) -> int | None:
    """The 0-based column of the character at `position`, or of the first over-long field if that is None."""
    if delimiter is None:
        return None
    column, start, inside_quotes = 0, 0, False
    for index, character in enumerate(line):
        if index == position or (position is None and index - start > MAX_FIELD_CHARACTERS):
            break
        if character == '"' and quoting:
            inside_quotes = not inside_quotes
        elif character == delimiter and not inside_quotes:
            column, start = column + 1, index + 1
    return column


def _lines(path: Path, delimiter: str | None = None, quoting: bool = False) -> Iterator[tuple[int, str]]:
    r"""Yields number and text of each line, line end included, decoded and checked.

    Lines end at `\n` alone: other characters that Python calls line ends occur inside texts.

    Raises:
        DatasetError: A line that is not UTF-8, has a NUL, or is longer than `MAX_RECORD_BYTES`.
    """
    name = str(path)
    with path.open("rb") as file:
        row, offset = 0, 0
        while line := file.readline(MAX_RECORD_BYTES + 1):
            row += 1
            start, offset = offset, offset + len(line)
            if row == 1 and line.startswith(_BYTE_ORDER_MARK):
                line, start = line[len(_BYTE_ORDER_MARK) :], len(_BYTE_ORDER_MARK)
            if len(line) > MAX_RECORD_BYTES:
                column = _column_at(line.decode("utf-8", "replace"), delimiter, quoting, None)
                what = f"the row is longer than {MAX_RECORD_BYTES:,} bytes"
                raise dataset_error(name, what, "shorten or remove it", row=row, column=column)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                column = _column_at(line[: error.start].decode("utf-8") + "?", delimiter, quoting, error.start)
                what = f"byte 0x{line[error.start]:02x} at byte offset {start + error.start} of the file is not UTF-8"
                raise dataset_error(name, what, "save the file as UTF-8", row=row, column=column) from error
            if "\0" in text:
                column = _column_at(text, delimiter, quoting, text.index("\0"))
                what = f"there is a NUL byte at byte offset {start + line.index(0)} of the file"
                raise dataset_error(name, what, "remove it, or save the file as UTF-8", row=row, column=column)
            yield row, text


def _check_unique(name: str, columns: Sequence[str]) -> None:
    twice = next((column for column, count in Counter(columns).items() if column and count > 1), None)
    if twice is not None:
        raise dataset_error(name, f"the column {quoted(twice)} occurs twice", "rename one of them", row=1)


class DelimitedFile:
    """A `.tsv` or `.csv` file, with or without a row of column names."""

    def __init__(
        self, path: Path, delimiter: str, *, quoting: bool, is_header: Callable[[Sequence[str]], bool]
    ) -> None:
        self.name = str(path)
        self._path = path
        self._delimiter = delimiter
        self._quoting = quoting
        first = next(self._records(), None)
        if first is None:
            raise dataset_error(self.name, "the file has no rows", "a row holds one example")
        self.headed = is_header(first[1])
        self.columns = tuple(
            cell.strip() if self.headed else str(index) for index, cell in enumerate(first[1])
        )  # fmt: skip
        _check_unique(self.name, self.columns)

    def class_names(self, column: str) -> None:
        """Text files declare no classes."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yields each row's line number and its values in the order of `columns`, without the header."""
        places = [self.columns.index(column) for column in columns]
        for index, (row, cells) in enumerate(self._records()):
            if len(cells) != len(self.columns):
                remedy = "remove the surplus tab or add the missing one; a .tsv has no quoting"
                if self._quoting:
                    remedy = "put texts with commas in double quotes"
                what = f"{len(cells)} columns, the first row has {len(self.columns)}"
                raise dataset_error(self.name, what, remedy, row=row, column=min(len(cells), len(self.columns)))
            if index > 0 or not self.headed:
                yield row, tuple(cells[place] for place in places)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        if self._quoting:
            yield from self._quoted_records()
            return
        for row, line in _lines(self._path, self._delimiter):
            line = line.removesuffix("\n").removesuffix("\r")
            if line:
                yield row, line.split(self._delimiter)

    def _quoted_records(self) -> Iterator[tuple[int, list[str]]]:
        taken: list[str] = []
        first_row = 1

        def feed() -> Iterator[str]:
            nonlocal first_row
            size = 0
            for row, line in _lines(self._path, self._delimiter, quoting=True):
                if not taken:
                    first_row, size = row, 0
                taken.append(line)
                # A quote that is never closed would otherwise take the rest of the file as one record.
                size += len(line)
                if size > MAX_RECORD_BYTES:
                    what = f"the record is longer than {MAX_RECORD_BYTES:,} characters"
                    raise dataset_error(self.name, what, "look for a double quote that is not closed", row=first_row)
                yield line

        reader = csv.reader(feed(), delimiter=self._delimiter, strict=True)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._csv_error(error, first_row, "".join(taken)) from error
            taken.clear()
            if cells:
                yield first_row, cells

    def _csv_error(self, error: csv.Error, row: int, record: str) -> DatasetError:
        # Python's own limit on a field stands above ours, and is what keeps memory bounded while a field is read.
        if "field limit" in str(error):
            what = f"a field has more than {MAX_FIELD_CHARACTERS:,} characters"
            remedy = "shorten it, or look for a double quote that is not closed"
            column = _column_at(record, self._delimiter, True, None)
            return dataset_error(self.name, what, remedy, row=row, column=column)
        return dataset_error(
            self.name, f"not valid CSV ({error})", "look for a stray or unclosed double quote", row=row
        )


class JsonLinesFile:
    """A `.jsonl` file: one JSON object a line; the first one's keys are the columns."""

    headed = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        first = next(self._records(), None)
        if first is None:
            raise dataset_error(
                self.name, "the file has no rows", 'a row is an object such as {"text": "…", "label": 0}'
            )
        self.columns = tuple(first[1])

    def class_names(self, column: str) -> None:
        """JSON lines declare no classes."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields each row's line number and its values in the order of `columns`."""
        for row, record in self._records():
            for column in columns:
                if column not in record:
                    what = f"the key is missing; the row has: {listed(tuple(record))}"
                    raise dataset_error(self.name, what, "add it to the row", row=row, column=quoted(column))
            yield row, tuple(record[column] for column in columns)

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        remedy = 'a row is one JSON object such as {"text": "…", "label": 0}'
        for row, line in _lines(self._path):
            if not line.strip():
                continue
            try:
                record = json.loads(line, object_pairs_hook=_each_key_once)
            except _KeyTwiceError as error:
                what = f"the key {quoted(error.args[0])} occurs twice in one object"
                raise dataset_error(self.name, what, "leave one of them out", row=row) from error
            except json.JSONDecodeError as error:
                what = f"not valid JSON at character {error.colno} of the line ({error.msg})"
                raise dataset_error(self.name, what, remedy, row=row) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
                raise dataset_error(
                    self.name, f"not readable JSON ({type(error).__name__})", remedy, row=row
                ) from error
            if not isinstance(record, dict):
                raise dataset_error(self.name, f"a JSON {type(record).__name__}, not an object", remedy, row=row)
            yield row, record


class _KeyTwiceError(Exception):
    """Holds the key."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its keys and values; by default the last of several values would be taken silently."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _KeyTwiceError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return record


class TextFile:
    """A plain text, of which each paragraph is a row: lines with no empty one, or one of blanks, between them."""

    columns: tuple[str, ...] = ("text",)
    headed = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def class_names(self, column: str) -> None:
        """Plain texts declare no classes."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yields the number of each paragraph's first line, and the paragraph for each of `columns`."""
        lines: list[str] = []
        first, size = 1, 0
        for row, line in _lines(self._path):
            if not line.strip():
                yield from self._paragraph(first, lines, columns)
                lines, size = [], 0
                continue
            first = first if lines else row
            lines.append(line)
            size += len(line)
            if size > MAX_RECORD_BYTES:
                what = f"the paragraph is longer than {MAX_RECORD_BYTES:,} characters"
                raise dataset_error(self.name, what, "put empty lines between paragraphs", row=first)
        yield from self._paragraph(first, lines, columns)

    @staticmethod
    def _paragraph(first: int, lines: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        if lines:
            yield first, ("".join(lines).rstrip("\r\n"),) * len(columns)


class ParquetFile:
    """A `.parquet` file, read in small batches of the columns asked for."""

    headed = True

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.name = str(path)
        self._path = path
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                self._schema = file.schema_arrow
                self._metadata = file.metadata
        except PermissionError:
            raise
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            raise self._damaged(error) from error
        if self._metadata.num_rows == 0:
            raise dataset_error(self.name, "the file has no rows", "a row holds one example")
        self.columns = tuple(self._schema.names)
        _check_unique(self.name, self.columns)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Names of a `ClassLabel` column, which `datasets` writes beside the schema."""
        return class_names_of_schema(self._schema.metadata, column)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields each row's 1-based number and its values in the order of `columns`."""
        import pyarrow
        import pyarrow.parquet

        self._check_sizes(columns)
        row = 0
        try:
            # Strings stay dictionary-encoded until their lengths are checked: a few kilobytes on disk can stand for
            # one huge string in each of a million rows.
            with pyarrow.parquet.ParquetFile(self._path, read_dictionary=self._text_leaves(columns)) as file:
                for batch in _batches(file, columns):
                    for column in columns:
                        owners = np.arange(row + 1, row + 1 + batch.num_rows)
                        self._check_lengths(batch.column(column), owners, column)
                    values = [batch.column(column).to_pylist() for column in columns]
                    for record in zip(*values, strict=True):
                        row += 1
                        yield row, record
        except DatasetError:
            raise
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            raise self._damaged(error, row + 1) from error

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return int(self._metadata.num_rows)

    def group_starts(self) -> tuple[int, ...]:
        """The first row of each row group, from 0."""
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        return tuple(accumulate(sizes, initial=0))[:-1]

    def read_group(self, group: int, column: str) -> Any:
        """The values of a column in one row group, as a pyarrow ChunkedArray.

        What repeats is held once, so that no more is held than `_PARQUET_GROUP_BYTES`.

        Raises:
            DatasetError: The group is too large, or damaged.
        """
        import pyarrow
        import pyarrow.parquet

        self._check_sizes([column])
        try:
            with pyarrow.parquet.ParquetFile(self._path, read_dictionary=self._text_leaves([column])) as file:
                return file.read_row_group(group, columns=[column]).column(column)
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            raise self._damaged(error, self.group_starts()[group] + 1) from error

    def _text_leaves(self, columns: Sequence[str]) -> list[str]:
        """Paths of the columns' texts in the file, those inside lists and structures included."""
        schema = self._metadata.schema
        leaves = [schema.column(index) for index in range(len(schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        return [path for path in texts if _belongs(path, columns)]

    def _check_sizes(self, columns: Sequence[str]) -> None:
        """Refuses a file of which one row group would fill the memory once it is decompressed."""
        for group in range(self._metadata.num_row_groups):
            row_group = self._metadata.row_group(group)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                if not _belongs(column.path_in_schema, columns):
                    continue
                if column.total_uncompressed_size > _PARQUET_GROUP_BYTES:
                    what = f"row group {group} decompresses to {column.total_uncompressed_size:,} bytes"
                    remedy = f"write it with row groups below {_PARQUET_GROUP_BYTES:,} bytes"
                    raise dataset_error(self.name, what, remedy, column=column.path_in_schema)
                if column.num_values > _PARQUET_GROUP_VALUES:
                    what = f"row group {group} holds {column.num_values:,} values"
                    remedy = f"write it with row groups below {_PARQUET_GROUP_VALUES:,} values"
                    raise dataset_error(self.name, what, remedy, column=column.path_in_schema)

    def _check_lengths(self, array: Any, owners: np.ndarray, column: str) -> None:
        """Refuses texts and lists that are too long, before they become Python objects.

        Args:
            array: Values of a column, or what its lists and structures hold.
            owners: The row number of each value.
            column: The column.
        """
        import pyarrow
        import pyarrow.compute

        kind = array.type
        if pyarrow.types.is_struct(kind):
            for part in array.flatten():
                self._check_lengths(part, owners, column)
        elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            lengths = pyarrow.compute.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            self._refuse_longer(lengths, MAX_ENTRIES, owners, column, "list has {:,} entries, the limit is {:,}")
            self._check_lengths(array.flatten(), np.repeat(owners, lengths), column)
        elif pyarrow.types.is_dictionary(kind) and not pyarrow.types.is_primitive(kind.value_type):
            sizes = pyarrow.compute.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
            used = array.indices.is_valid().to_numpy(zero_copy_only=False)
            codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)[used]
            what = "text has {:,} bytes, the limit is {:,}"
            self._refuse_longer(sizes[codes], 4 * MAX_FIELD_CHARACTERS, owners[used], column, what)

    def _refuse_longer(self, sizes: np.ndarray, limit: int, owners: np.ndarray, column: str, what: str) -> None:
        if sizes.size and sizes.max() > limit:
            index = int(np.argmax(sizes > limit))
            what = f"the {what.format(sizes[index], limit)}"
            raise dataset_error(self.name, what, "shorten or remove the row", row=int(owners[index]), column=column)

    def _damaged(self, error: Exception, row: int | None = None) -> DatasetError:
        what = f"not a readable Parquet file ({' '.join(str(error).split())[:200]})"
        return dataset_error(self.name, what, "download or write it again", row=row)


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    """The batches of a Parquet file, none of which spans row groups: pyarrow reads no lists of texts that do."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, row_groups=[group], columns=list(columns))


def _belongs(path: str, columns: Sequence[str]) -> bool:
    """Whether a path in a Parquet file, such as `tokens.list.element`, leads into one of the columns."""
    return any(path == column or path.startswith(f"{column}.") for column in columns)
