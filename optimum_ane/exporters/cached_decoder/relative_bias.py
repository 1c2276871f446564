"""Biases of relative positions, as T5 has them, as tables: a row for each position, looked up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativeBiases:
    """The biases of a decoder's own attentions, for every position of a context.

    An attention is one with a method `compute_bias`, whose `is_decoder` is set. Which bucket of its parameters a
    distance falls into is a logarithm, which float16 rounds into another one: so the answers are computed here, in
    float32, before anything is traced.

    Args:
        model: The model; where it has no such attention, there is nothing to look up.
        context_length: Rows of the cache.
    """

    def __init__(self, model: nn.Module, context_length: int) -> None:
        self._tables: list[tuple[Any, Tensor, int]] = []
        for module in model.modules():
            is_biased = getattr(module, "has_relative_attention_bias", False) and hasattr(module, "compute_bias")
            if not (is_biased and getattr(module, "is_decoder", False)):
                continue
            with torch.no_grad():
                biases = module.compute_bias(context_length, context_length)[0]  # (H, context, context)
            self._tables.append((module, biases.transpose(0, 1).flatten(1), len(biases)))

    @contextmanager
    def looked_up(self, position: Tensor) -> Iterator[None]:
        """Lets the attentions look their biases up while the block runs.

        Args:
            position: (1,) integer, of the one token that is read.
        """
        try:
            for module, table, heads in self._tables:
                module.compute_bias = _LookUp(table, position, heads)
            yield
        finally:
            for module, _, _ in self._tables:
                del module.compute_bias


class _LookUp:
    """Answers as `compute_bias` does for one token: (1, H, 1, context)."""

    def __init__(self, table: Tensor, position: Tensor, heads: int) -> None:
        self._table, self._position, self._heads = table, position, heads

    def __call__(self, *_: Any, **__: Any) -> Tensor:
        return F.embedding(self._position, self._table).reshape(1, self._heads, 1, -1)
