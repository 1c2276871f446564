"""Rotary positions as tables: the angles of a whole context, computed in float32 and looked up by position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optimum_ane.errors import UnsupportedModelError

_SUFFIX = "RotaryEmbedding"


@contextmanager
def rotary_tables(model: nn.Module, context_length: int) -> Iterator[None]:
    """Lets the rotary modules of a model look their answers up while the block runs.

    A module is one whose class is called `…RotaryEmbedding` and whose `forward` takes a value and `position_ids`. What
    it answers to the positions of the context is the table, one for each set of its further arguments.

    Raises:
        UnsupportedModelError: Angles that change with the length of the text change within the context.
    """
    replaced = []
    try:
        for module in model.modules():
            if type(module).__name__.endswith(_SUFFIX):
                _check_length(module, context_length)
                module.forward = _Table(module, module.forward, context_length)
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            del module.forward


class _Table:
    """Answers as a rotary module does, by looking the position up."""

    def __init__(self, module: nn.Module, forward: Any, context_length: int) -> None:
        self._module, self._forward, self._context_length = module, forward, context_length
        self._tables: dict[tuple[Any, ...], Tensor | tuple[Tensor, ...]] = {}

    def __call__(self, x: Tensor, position_ids: Tensor, *others: Any, **named: Any) -> Tensor | tuple[Tensor, ...]:
        key = (*others, *sorted(named.items()))
        if key not in self._tables:
            self._tables[key] = self._forward(
                torch.zeros(1, 1, 1), torch.arange(self._context_length)[None], *others, **named
            )
        tables = self._tables[key]
        if isinstance(tables, Tensor):
            return _look_up(position_ids, tables)
        return tuple(_look_up(position_ids, table) for table in tables)


def _look_up(position_ids: Tensor, table: Tensor) -> Tensor:
    """The rows of a table (1, context, C) at positions (1, Q); rotations may be complex numbers."""
    rows = table[0].detach()
    if rows.is_complex():
        pairs = nn.functional.embedding(position_ids, torch.view_as_real(rows).flatten(1))
        return torch.view_as_complex(pairs.reshape(*pairs.shape[:2], -1, 2))
    return nn.functional.embedding(position_ids, rows)


def _check_length(module: nn.Module, context_length: int) -> None:
    config = getattr(module, "config", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    each = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    for rope in each:
        kind = (rope or {}).get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        limit = rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
        if limit is not None and context_length > limit:
            raise UnsupportedModelError(
                f"the rotary angles ({kind}) change where a text is longer than {limit} tokens, and a context of "
                f"{context_length} has one table; export with a context of at most {limit}"
            )
