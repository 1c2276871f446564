"""Limits for datasets, which are untrusted input, and the one form that every complaint about them takes."""

from __future__ import annotations

from typing import Any

from optimum_ane.errors import DatasetError

MAX_FIELD_CHARACTERS = 100_000
"""Longest text of one example; a book chapter. Beyond it the file is damaged or meant to exhaust memory."""

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Longest row of a text file, all its columns together."""

MAX_ROWS = 1_000_000
"""Most rows that are held in memory; GLUE's largest split (QQP's test set) has 391 thousand."""

MAX_TOTAL_CHARACTERS = 500_000_000
"""Most characters of text that are held in memory, over all rows."""

MAX_ENTRIES = 100_000
"""Most entries of a list in one row: a word of each character of the longest text."""

_LONGEST_QUOTE = 60


def dataset_error(
    name: str, what: str, remedy: str, *, row: int | None = None, column: str | int | None = None
) -> DatasetError:
    """Builds the error for one flaw of a dataset; the caller raises it.

    Args:
        name: The file, or the Hub dataset with its split.
        what: What is wrong.
        remedy: What the user can do.
        row: 1-based. In text files it is the line number that an editor shows, so a header is row 1.
        column: The column's name, or its 0-based number in a file without a header.
    """
    place = name
    if row is not None:
        place += f", row {row}"
    if column is not None:
        place += f", column {column}"
    return DatasetError(f"{place}: {what}; {remedy}")


def quoted(value: Any) -> str:
    """A value as an error message shows it: one line, control characters escaped, shortened."""
    if isinstance(value, str) and len(value) > _LONGEST_QUOTE:
        return f"{value[:_LONGEST_QUOTE]!r}…"
    try:
        text = repr(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def listed(names: list[str] | tuple[str, ...], limit: int = 20) -> str:
    """Names joined by commas, at most `limit` of them, each escaped and shortened as `quoted` does."""
    shown = ", ".join(quoted(name)[1:-1] if len(name) <= _LONGEST_QUOTE else quoted(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def checked_text(value: Any, name: str, row: int, column: str) -> str:
    """Returns the value if it is a text that a tokenizer can take.

    Raises:
        DatasetError: It is no text, has a NUL character or half a surrogate pair, or is too long.
    """
    if not isinstance(value, str):
        kind = "nothing (null)" if value is None else type(value).__name__
        remedy = "mend the row or name another column"
        raise dataset_error(name, f"a text is expected, found {kind}", remedy, row=row, column=column)
    if len(value) > MAX_FIELD_CHARACTERS:
        what = f"the text has {len(value):,} characters, the limit is {MAX_FIELD_CHARACTERS:,}"
        raise dataset_error(name, what, "shorten or remove the row", row=row, column=column)
    if "\0" in value:
        what = f"there is a NUL character at position {value.index(chr(0))}"
        raise dataset_error(name, what, "remove it, or save the file as UTF-8", row=row, column=column)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"half a surrogate pair at position {error.start}"
        raise dataset_error(name, what, "mend the escape sequence", row=row, column=column) from error
    return value


def checked_list(value: Any, name: str, row: int, column: str, entry: str) -> list[Any]:
    """Returns the value if it is a list of a length that can be held.

    Args:
        value: The value.
        name: The dataset.
        row: Its row.
        column: Its column.
        entry: What the list has for entries, in the plural, for the message.

    Raises:
        DatasetError: It is no list, or too long.
    """
    if not isinstance(value, (list, tuple)):
        kind = "nothing (null)" if value is None else type(value).__name__
        remedy = "mend the row or name another column"
        raise dataset_error(name, f"a list of {entry} is expected, found {kind}", remedy, row=row, column=column)
    if len(value) > MAX_ENTRIES:
        what = f"the list has {len(value):,} entries, the limit is {MAX_ENTRIES:,}"
        raise dataset_error(name, what, "shorten or remove the row", row=row, column=column)
    return list(value)
