"""Which column holds the text, which its partner, which the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import fault, listed, quoted

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


def choose_columns(
    name: str, columns: Sequence[str], *, headed: bool, text: str | None, pair: str | None, label: str | None
) -> Columns:
    """Finds the columns from the options given, or from their usual names.

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
        raise fault(name, "--text-pair-column is given without --text-column", "name both")
    chosen_text = _named(name, columns, text)
    chosen_pair = _named(name, columns, pair)
    chosen_label = _named(name, columns, label)

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
        raise fault(name, what, "name different ones with --text-column, --text-pair-column and --label-column")
    return Columns(chosen_text, chosen_pair, chosen_label)


def _named(name: str, columns: Sequence[str], wanted: str | None) -> str | None:
    if wanted is None or wanted in columns:
        return wanted
    if wanted.isdecimal() and int(wanted) < len(columns):
        return columns[int(wanted)]
    raise fault(
        name,
        f"there is no column {quoted(wanted)}",
        f"its columns are: {listed(tuple(columns))}",
        column=quoted(wanted),
    )


def _not_found(name: str, columns: Sequence[str], headed: bool, kind: str) -> DatasetError:
    if headed:
        what = f"no {kind} column is recognised among: {listed(tuple(columns))}"
        return fault(name, what, f"name it with --{kind}-column")
    what = f"{len(columns)} column(s) and no header that is recognised"
    remedy = "say which is which: --text-column 0 --label-column 1 (numbers from 0), or the names of a header"
    return fault(name, what, remedy, row=1)
