"""The attention of a decoder that looks at a source: over its own rows, and over those of the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.attention import attend
from optimum_ane.exporters.cached_decoder.source_cache import SourceCache

CROSSED = "optimum_ane_crossed"
"""Of the attention function, for `attn_implementation`."""


class MaskedAttentions:
    """Gives each attention of one run its mask, and counts them.

    Some models hand no mask to their attention over the source (Whisper's is never padded), so that it is known by
    the very tensor of its keys, and masked here.

    Args:
        source: Whose keys are known.
        encoder_mask: Added to the scores of the source's columns, (1, 1, 1, columns).

    Attributes:
        source_weights: Of each attention over the source, in the order of the layers, (1, heads, Q, columns).
    """

    def __init__(self, source: SourceCache, encoder_mask: Tensor) -> None:
        self._source, self._encoder_mask = source, encoder_mask
        self.over_own = self.over_source = 0
        self.source_weights: list[Tensor] = []

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, arguments: Any
    ) -> tuple[Tensor, None]:
        """Attends as `cached_attention` does, with the mask that belongs to the keys, and T5's bias beside it."""
        bias = arguments.pop("position_bias", None)
        is_of_source = self._source.holds(key)
        if is_of_source:
            mask, self.over_source = self._encoder_mask, self.over_source + 1
        else:
            self.over_own += 1
        if bias is not None and mask is not None:
            mask = mask + bias.reshape(1, key.shape[1], -1, bias.shape[3])
        mixed, weights = attend(module, query, key, value, mask, **arguments)
        if is_of_source:
            self.source_weights.append(weights)
        return mixed, None

    def check(self, name: str, layers: int) -> None:
        """Refuses a run in which not every layer attended once to its own rows and once to the source.

        Raises:
            UnsupportedModelError: The message has the numbers.
        """
        if (self.over_own, self.over_source) != (layers, layers):
            raise UnsupportedModelError(
                f"{name} has {layers} layers with a cache, and {self.over_own} attentions to its own tokens and "
                f"{self.over_source} to the source could be masked: some go another way"
            )


_RUN: ContextVar[MaskedAttentions] = ContextVar("run")


@contextmanager
def masked_attentions(attentions: MaskedAttentions) -> Iterator[None]:
    """Lets the attention function `CROSSED` take the masks of a run while the block runs."""
    token = _RUN.set(attentions)
    try:
        yield
    finally:
        _RUN.reset(token)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    return _RUN.get().attend(module, query, key, value, attention_mask, arguments)


AttentionInterface.register(CROSSED, _attend)
