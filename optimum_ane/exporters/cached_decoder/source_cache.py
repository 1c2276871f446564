"""Keys and values of a source behind transformers' interface of a cache: those that there are, or those to be kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.state_cache import StateCache


class SourceRows(NamedTuple):
    """What a layer keeps of the source, (1, heads, columns, width) each."""

    keys: Tensor
    values: Tensor


class SourceCache:
    """What all layers keep of the source; see `KeptSource` and `CaughtSource`.

    Attributes:
        layers: Of the model's, in order.
    """

    def __init__(self, layers: list[SourceRows]) -> None:
        self.layers = layers

    def holds(self, keys: Tensor) -> bool:
        """Whether these keys are a layer's own: the very tensor, not one of the same values."""
        return any(keys is layer.keys for layer in self.layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Takes what a layer has projected of the source, and gives what it attends to."""
        raise NotImplementedError


class KeptSource(SourceCache):
    """Slices of one tensor, (2 · layers, heads, columns, width): a layer's keys are at 2 · index, its values behind.

    Args:
        kept: The tensor; it is read.
    """

    def __init__(self, kept: Tensor) -> None:
        super().__init__(
            [SourceRows(kept[index : index + 1], kept[index + 1 : index + 2]) for index in range(0, len(kept), 2)]
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Refuses it: a step that projects the source anew would pay for what is kept.

        Raises:
            UnsupportedModelError: Always.
        """
        raise UnsupportedModelError(f"layer {layer_idx} projects the source at every token, though it is kept")


class CaughtSource(SourceCache):
    """Keeps what the layers project when they are first asked."""

    def __init__(self) -> None:
        super().__init__([])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """See `SourceCache.update`.

        Raises:
            UnsupportedModelError: The layers do not come in order.
        """
        if layer_idx != len(self.layers):
            raise UnsupportedModelError(
                f"layer {layer_idx} keeps the source after {len(self.layers)} others; each keeps it once, in order"
            )
        self.layers.append(SourceRows(key_states, value_states))
        return key_states, value_states


class BothCaches(EncoderDecoderCache):
    """The cache of a decoder's own tokens and that of the source, as modeling files take them.

    Args:
        own: Of the tokens; its length is their position, as a tensor, or a trace would hold one position for ever.
        source: Of the source.
    """

    is_compileable = False

    def __init__(self, own: StateCache, source: SourceCache) -> None:
        # The base takes caches of transformers alone.
        self.self_attention_cache: Any = own
        self.cross_attention_cache: Any = source
        self.is_updated = dict.fromkeys(range(len(source.layers)), True)
