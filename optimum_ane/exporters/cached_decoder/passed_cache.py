"""A stock decoder whose cache is an input of the program and whose new rows are an output: the host writes them.

For systems without states, and for hosts that keep the cache themselves. Within a call the new rows are put into the
cache by a product with ones at their places, which every system has; an update at a computed place is of iOS 18.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.masks import MaskMakers
from optimum_ane.exporters.cached_decoder.module import View, call_arguments, over_state
from optimum_ane.exporters.cached_decoder.state_cache import StateCache


class PassedCache(StateCache):
    """A `StateCache` that leaves its tensor as it is, and remembers the rows of the new tokens.

    Args:
        cache: (2 · layers, heads, context, width).
        position: () integer, the row of the first token.
        tokens: How many are new, Q.
    """

    def __init__(self, cache: Tensor, position: Tensor, tokens: int) -> None:
        super().__init__(cache, position)
        places = torch.arange(cache.shape[2], dtype=position.dtype)[:, None]
        new = position + torch.arange(tokens, dtype=position.dtype)
        self._is_there = (places == new[None, :]).to(cache.dtype)  # (context, Q)
        self._is_kept = 1 - self._is_there.sum(1, keepdim=True)
        self.rows: list[Tensor] = []

    def write(self, first: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `StateCache.write`."""
        self.rows.append(rows)
        layer = self._state[first : first + 2] * self._is_kept + torch.matmul(self._is_there, rows)
        return layer[:1], layer[1:]


class PassedCacheDecoder(nn.Module):
    """A causal language model over a cache that is passed in.

    See `CachedDecoder`, whose way of running a model this shares.

    Args:
        model: In evaluation mode and float32; it is neither copied nor changed beyond the calls.
        answers: What `forward` returns beside the new rows.
    """

    def __init__(self, model: PreTrainedModel, answers: View = "logits") -> None:
        super().__init__()
        self.model, self.answers = model, answers

    def forward(
        self, input_ids: Tensor, position: Tensor, causal_mask: Tensor, kv_cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reads tokens.

        Args:
            input_ids: (1, Q) integer.
            position: (1,) integer, of the first token: the number of rows before it.
            causal_mask: (1, 1, Q, context), 0 for rows that a token sees, −3e4 for the others.
            kv_cache: (2 · layers, heads, context, width), with the rows of the tokens before.

        Returns:
            The logits (1, Q, vocabulary), or the position behind the last token (1,); and the rows of the tokens,
            (2 · layers, heads, Q, width), for the caller to write into the cache from `position` on.

        Raises:
            UnsupportedModelError: The model does what is not understood over a cache; the message says what.
        """
        length, context = input_ids.shape[1], kv_cache.shape[2]
        positions = position + torch.arange(length, dtype=position.dtype)
        cache = PassedCache(kv_cache.float(), position[0], length)
        arguments: dict[str, Any] = call_arguments(self.model, cache, positions, context)
        with over_state(self.model, MaskMakers(causal_mask.float(), positions), context):
            logits: Tensor = self.model(input_ids=input_ids, **arguments).logits
        layers = kv_cache.shape[0] // 2
        if cache.updated != list(range(layers)):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} wrote the layers {cache.updated} of its cache, and has {layers}; with "
                "the cache passed in, each is written once and in order"
            )
        return logits if self.answers == "logits" else position + length, torch.cat(cache.rows)
