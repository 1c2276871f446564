"""Which column holds the text, which its partner, which the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error, listed, quoted
from optimum_ane.evaluation.files import Table

LABEL_NAMES = ("label", "labels", "gold_label", "label_id", "target", "class", "is_duplicate", "quality", "score")
"""Names that label columns go by, GLUE's own files included, best first."""

TEXT_NAMES = ("sentence", "text", "review", "content", "tweet", "utterance", "question", "sentence1", "premise")

PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("question", "passage"),
    ("query", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("#1 string", "#2 string"),
)

GLUE_COLUMNS: dict[str, tuple[str, str | None]] = {
    "cola": ("sentence", None),
    "sst2": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "mnli_matched": ("premise", "hypothesis"),
    "mnli_mismatched": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
"""Text columns of each GLUE config on the Hub (nyu-mll/glue); the label is always `label`."""


class Columns(NamedTuple):
    """The columns in use, by name, or by number where the file has no header."""

    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class Wanted:
    """A column that a task reads.

    Attributes:
        kind: What it holds, in a word, for messages.
        option: The command line's option that names it.
        given: What the option says; None looks for a usual name.
        usual: The names that it usually has, in lower case, best first.
    """

    kind: str
    option: str
    given: str | None
    usual: tuple[str, ...]


def find_column(table: Table, wanted: Wanted) -> str:
    """Finds a column by its option, or by its usual names.

    Raises:
        DatasetError: There is none.
    """
    column = find_optional_column(table, wanted)
    if column is not None:
        return column
    if table.headed:
        what = f"no {wanted.kind} column is recognised among: {listed(table.columns)}"
        raise dataset_error(table.name, what, f"name it with {wanted.option}")
    what = f"{len(table.columns)} column(s) and no header that is recognised"
    raise dataset_error(table.name, what, f"name the {wanted.kind} column with {wanted.option} (from 0)", row=1)


def find_optional_column(table: Table, wanted: Wanted) -> str | None:
    """Finds a column by its option, or by its usual names; None where there is none.

    Raises:
        DatasetError: The option names a column that does not exist.
    """
    if wanted.given is not None:
        return named_column(table.name, table.columns, wanted.given)
    known = {column.strip().lower(): column for column in reversed(table.columns)} if table.headed else {}
    return next((known[name] for name in wanted.usual if name in known), None)


def check_different(table: Table, columns: Sequence[str], options: str) -> None:
    """Refuses one column in two parts.

    Args:
        table: The dataset.
        columns: The columns in use.
        options: The options that name them, for the message.
    """
    if len(set(columns)) < len(columns):
        what = f"one column serves twice: {listed(tuple(columns))}"
        raise dataset_error(table.name, what, f"name different ones with {options}")


def choose_columns(
    name: str, columns: Sequence[str], *, headed: bool, text: str | None, pair: str | None, label: str | None
) -> Columns:
    """Finds the columns of texts with labels, from the options given or from their usual names.

    Of two columns, the one that is not yet known is the other; two columns without a header are text, then label.

    Args:
        name: The dataset, for the error message.
        columns: Names of the columns there are.
        headed: Whether the data named them; otherwise they are numbers.
        text: `--text-column`, a name or a 0-based number.
        pair: `--text-pair-column`.
        label: `--label-column`.

    Raises:
        DatasetError: A column that does not exist, or none that can be guessed.
    """
    if pair is not None and text is None:
        raise dataset_error(name, "--text-pair-column is given without --text-column", "name both")
    chosen_text = None if text is None else named_column(name, columns, text)
    chosen_pair = None if pair is None else named_column(name, columns, pair)
    chosen_label = None if label is None else named_column(name, columns, label)

    usual = {column.strip().lower(): column for column in reversed(columns)} if headed else {}
    if chosen_label is None:
        chosen_label = next((usual[guess] for guess in LABEL_NAMES if guess in usual), None)
    if chosen_text is None:
        first, second = next((both for both in PAIR_NAMES if both[0] in usual and both[1] in usual), (None, None))
        if first is not None and second is not None:
            chosen_text, chosen_pair = usual[first], usual[second]
        else:
            chosen_text = next((usual[guess] for guess in TEXT_NAMES if guess in usual), None)
    if len(columns) == 2:
        if chosen_text is None and chosen_label is None and not headed:
            chosen_text, chosen_label = columns
        elif chosen_text is None and chosen_label is not None:
            chosen_text = next(column for column in columns if column != chosen_label)
        elif chosen_label is None and chosen_text is not None and chosen_pair is None:
            chosen_label = next(column for column in columns if column != chosen_text)

    if chosen_text is None or chosen_label is None:
        raise _not_found(name, columns, headed, "text" if chosen_text is None else "label")
    used = [column for column in (chosen_text, chosen_pair, chosen_label) if column is not None]
    if len(set(used)) < len(used):
        what = f"one column serves twice: {listed(used)}"
        remedy = "name different ones with --text-column, --text-pair-column and --label-column"
        raise dataset_error(name, what, remedy)
    return Columns(chosen_text, chosen_pair, chosen_label)


def named_column(name: str, columns: Sequence[str], wanted: str) -> str:
    """The column of a name or of a 0-based number.

    Raises:
        DatasetError: There is none.
    """
    if wanted in columns:
        return wanted
    if wanted.isdecimal() and len(wanted) < 10 and int(wanted) < len(columns):
        return columns[int(wanted)]
    raise dataset_error(
        name,
        f"there is no column {quoted(wanted)}",
        f"its columns are: {listed(tuple(columns))}",
        column=quoted(wanted),
    )


def _not_found(name: str, columns: Sequence[str], headed: bool, kind: str) -> DatasetError:
    if headed:
        what = f"no {kind} column is recognised among: {listed(tuple(columns))}"
        return dataset_error(name, what, f"name it with --{kind}-column")
    what = f"{len(columns)} column(s) and no header that is recognised"
    remedy = "say which is which: --text-column 0 --label-column 1 (numbers from 0), or the names of a header"
    return dataset_error(name, what, remedy, row=1)
