"""A stock decoder that looks at a source, its caches passed in: for systems without states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_ane.exporters.cached_decoder.crossed import (
    cache_shapes,
    check_written,
    of_heads,
    padded_columns,
    projected_source,
    read_token,
)
from optimum_ane.exporters.cached_decoder.passed_cache import PassedCache
from optimum_ane.exporters.cached_decoder.relative_bias import RelativeBiases
from optimum_ane.exporters.cached_decoder.source_cache import KeptSource


class PassedCrossedDecoder(nn.Module):
    """The decoder of an encoder-decoder model: one token a call, over caches that the caller keeps.

    See `CrossedDecoder`, whose way of running a model this shares.

    Args:
        model: The whole model, in evaluation mode and float32; it is neither copied nor changed beyond the calls.
        context_length: Rows of the cache of tokens.
        projects: Whether it takes the encoder's states, and projects them at each token, in place of the keys and
            values that `ProjectingEncoder` made of them.
        alignment_heads: See `CrossedDecoder`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        context_length: int,
        projects: bool,
        alignment_heads: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.model, self.projects, self.alignment_heads = model, projects, alignment_heads
        self._own_shape, _ = cache_shapes(model)
        self._biases = RelativeBiases(model, context_length)

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        causal_mask: Tensor,
        encoder_mask: Tensor,
        kv_cache: Tensor,
        source: Tensor,
    ) -> tuple[Tensor, ...]:
        """Reads a token.

        Args:
            input_ids: (1, 1) integer.
            position: (1,) integer: the number of rows before it.
            causal_mask: (1, 1, 1, context), 0 for rows that the token sees, −3e4 for the others.
            encoder_mask: (1, 1, 1, columns), 0 for columns of the source, −3e4 for those that fill it up.
            kv_cache: (2 · layers, heads, context, width), with the rows of the tokens before.
            source: `cross_cache` (2 · layers, heads, columns, width), or with `projects` `encoder_hidden_states`
                (1, T, C).

        Returns:
            The logits (1, 1, vocabulary), and the row of the token, (2 · layers, heads, 1, width), for the caller to
            write into the cache at `position`; and, with alignment heads, their weights (1, heads, columns).

        Raises:
            UnsupportedModelError: The model does what is not understood over a cache; the message says what.
        """
        kept = source.float()
        if self.projects:
            kept = _filled_up(projected_source(self.model, kept, self._own_shape))
        own, crossed = PassedTokens(kv_cache.float(), position[0], 1), KeptSource(kept)
        logits, weights = read_token(
            self.model, input_ids, position, (causal_mask, encoder_mask), own, crossed, self._biases
        )
        check_written(self.model, own, self._own_shape[0] // 2)
        outputs = (logits, torch.cat(own.rows))
        return (*outputs, of_heads(weights, self.alignment_heads)) if self.alignment_heads else outputs


class PassedTokens(PassedCache):
    """A `PassedCache` whose length is a tensor: modeling files count positions from it."""

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Gives the position of the token."""
        return self._position


class ProjectingEncoder(nn.Module):
    """An encoder whose program gives the decoder's keys and values of the source too.

    Args:
        model: The whole model.
        encoder: Its encoder as a program takes it; the first of what it returns are the states, (1, T, C).
    """

    def __init__(self, model: PreTrainedModel, encoder: nn.Module) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder
        self._own_shape, _ = cache_shapes(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the states, (1, T, C), and the cache of them, (2 · layers, heads, columns, width)."""
        hidden = self.encoder(*inputs)[0]
        return hidden, _filled_up(projected_source(self.model, hidden, self._own_shape))


def _filled_up(rows: Tensor) -> Tensor:
    length = int(rows.shape[2])
    return F.pad(rows, (0, 0, 0, padded_columns(length) - length))
