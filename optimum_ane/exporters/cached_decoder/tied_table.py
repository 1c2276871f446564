"""A table that words are looked up in and scored with, in the form in which a program stores it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from optimum_ane.nn.projection import vocabulary_pieces


@contextmanager
def tied_table(model: PreTrainedModel) -> Iterator[None]:
    """Looks words up in the weights of the convolutions that score them, while the block runs.

    A program stores a weight once for each shape that it is read in. The head's convolutions want the table (V, C) in
    pieces (length, C, 1, 1), and so it is looked up in these, in all functions alike, those without a head included.
    Does nothing where the head has a table of its own.
    """
    table = _tied(model)
    if table is None:
        yield
        return
    with _InPieces(table):
        yield


def _tied(model: PreTrainedModel) -> Tensor | None:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return None
    # Of a model with an encoder too, the table of either.
    is_tied = any(isinstance(module, nn.Embedding) and module.weight is head.weight for module in model.modules())
    return head.weight if is_tied else None


class _InPieces(TorchFunctionMode):
    """Answers `embedding` of one table by looking the words up in its pieces."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self._table = table

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Handles one call; those of other functions and tables stay as they are."""
        if function is F.embedding and args[1] is self._table:
            return look_up(args[0], self._table)
        return function(*args, **(kwargs or {}))


def look_up(ids: Tensor, table: Tensor) -> Tensor:
    """Looks words up in the pieces of a table.

        ids ─┬─► rest of the division by a piece's length ─► a row of each piece ─┬─► sum of products ─► rows
             └─► the piece's number ─► 1 for its piece, 0 for the others ─────────┘

    The rows are the CPU's, and the sum the engine's. A look-up in the joined rows would be the CPU's again, behind
    work of the engine. Every index is below a piece's length, and so below 65,536, beyond which the engine cannot look
    up (pytorch/executorch, pull request 7616).

    Args:
        ids: (1, Q) integer.
        table: (V, C).

    Returns:
        (1, Q, C).
    """
    flat = ids.reshape(-1)
    pieces = vocabulary_pieces(table.shape[0])
    weights = [table[start:stop, :, None, None] for start, stop in pieces]
    shape = (len(flat), table.shape[1])
    if len(weights) == 1:
        rows = weights[0].index_select(0, flat).reshape(shape)
    else:
        length, last = pieces[0][1], pieces[-1][1] - pieces[-1][0]
        number = torch.div(flat, length, rounding_mode="floor")
        within = flat - number * length
        # The last piece may be shorter; what is read of it for words of the others does not matter.
        places = [within] * (len(weights) - 1) + [torch.minimum(within, torch.tensor(last - 1))]
        read = [w.index_select(0, place).reshape(shape) for w, place in zip(weights, places, strict=True)]
        marks = [(number == piece)[:, None].to(table.dtype) for piece in range(len(read))]
        rows = sum(each * mark for each, mark in zip(read[1:], marks[1:], strict=True)) + read[0] * marks[0]
    return rows.reshape(*ids.shape, table.shape[1])
