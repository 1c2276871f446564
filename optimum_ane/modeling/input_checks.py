"""Refuses inputs that a model cannot mean: a program would answer to them with numbers that look sound."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.errors import InputError


def check_ids(name: str, ids: Tensor, count: int | None, what: str) -> None:
    """Refuses ids that are no rows of their table; a gather of Core ML reads some other row for them.

    Args:
        name: Of the input.
        ids: (N, S), integer.
        count: Rows of the table; None where the configuration does not say.
        what: What the rows are, for the message: `"words"`.

    Raises:
        InputError: An id is negative, or beyond the table; the message has its row and column.
    """
    wrong = ids < 0 if count is None else (ids < 0) | (ids >= count)
    if wrong.any():
        row, column = _first(wrong)
        limit = "ids are 0 or more" if count is None else f"the model has {count:,} {what}, from 0 on"
        raise InputError(
            f"{name} holds {int(ids[row, column])} in row {row}, column {column}, and {limit}; was it tokenized by "
            "the tokenizer of this model?"
        )


def check_mask(mask: Tensor) -> None:
    """Refuses masks that do not say of each position whether it is a token, and rows without one.

    Args:
        mask: (N, S), of any type.

    Raises:
        InputError: A value is neither 0 nor 1, or a row is all 0.
    """
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        row, column = _first(wrong)
        raise InputError(
            f"attention_mask holds {mask[row, column].item()} in row {row}, column {column}; it must be 1 for a token "
            "and 0 for padding"
        )
    empty = ~mask.bool().any(1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise InputError(f"row {row} has no token: its attention_mask is 0 throughout; leave the row out")


def _first(wrong: Tensor) -> tuple[int, int]:
    row, column = torch.nonzero(wrong)[0].tolist()
    return row, column
