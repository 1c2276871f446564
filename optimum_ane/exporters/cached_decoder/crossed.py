"""A stock decoder that looks at a source, as two functions over two states: the source once, then token by token."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from optimum_ane.errors import NoCacheError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.crossed_attention import CROSSED, MaskedAttentions, masked_attentions
from optimum_ane.exporters.cached_decoder.masks import MaskMakers
from optimum_ane.exporters.cached_decoder.module import STATE, over_state, without_padding
from optimum_ane.exporters.cached_decoder.relative_bias import RelativeBiases
from optimum_ane.exporters.cached_decoder.source_cache import (
    BothCaches,
    CaughtSource,
    KeptSource,
    SourceCache,
    SourceRows,
)
from optimum_ane.exporters.cached_decoder.state_cache import StateCache

SOURCE_STATE = "cross_cache"
ALIGNMENT = "alignment_weights"
"""The output with the weights of the attentions to the source that follow the words."""
COLUMNS_MULTIPLE = 32
"""The columns of a source are filled up to a multiple of this: states of other widths fail on devices."""


def padded_columns(columns: int) -> int:
    """The columns of the state that so many columns of a source are kept in."""
    return -(-columns // COLUMNS_MULTIPLE) * COLUMNS_MULTIPLE


class CrossedDecoder(nn.Module):
    """The decoder of an encoder-decoder model over what `SourceReader` has kept: one token a call.

    No modeling file is edited. While it runs, the model's cache is a `BothCaches`, its masks are those of the program,
    tables stand for its rotary modules and its relative biases, and its attention is that of `MaskedAttentions`.

    Args:
        model: The whole model, in evaluation mode and float32; it is neither copied nor changed beyond the calls.
        context_length: Rows of the state of tokens.
        columns: Of the state of the source.
        alignment_heads: Layer and head of the attentions to the source whose weights are a further output; none for
            no such output.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        context_length: int,
        columns: int,
        alignment_heads: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.model, self.context_length, self.columns = model, context_length, columns
        self.alignment_heads = alignment_heads
        own, source = cache_shapes(model)
        self.own_shape = own
        self.register_buffer(STATE, torch.zeros(own[0], own[1], context_length, own[2]), persistent=False)
        self.register_buffer(SOURCE_STATE, torch.zeros(source[0], source[1], columns, source[2]), persistent=False)
        self._biases = RelativeBiases(model, context_length)

    def forward(
        self, input_ids: Tensor, position: Tensor, causal_mask: Tensor, encoder_mask: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Reads a token and writes its rows.

        Args:
            input_ids: (1, 1) integer.
            position: (1,) integer: the number of rows before it.
            causal_mask: (1, 1, 1, context), 0 for rows that the token sees, −3e4 for the others.
            encoder_mask: (1, 1, 1, columns), 0 for columns of the source, −3e4 for those that fill it up.

        Returns:
            The logits (1, 1, vocabulary); and, with alignment heads, their weights (1, heads, columns).

        Raises:
            UnsupportedModelError: The model does what is not understood over a state; the message says what.
        """
        own = TokenCache(getattr(self, STATE), position[0])
        source = KeptSource(getattr(self, SOURCE_STATE))
        logits, weights = read_token(
            self.model, input_ids, position, (causal_mask, encoder_mask), own, source, self._biases
        )
        check_written(self.model, own, len(source.layers))
        return (logits, of_heads(weights, self.alignment_heads)) if self.alignment_heads else logits


class SourceReader(nn.Module):
    """The same decoder, asked for no more than the keys and values of a source: it writes them into the state.

    A token goes through the whole model, and each layer's keys and values are caught where it keeps them. Nothing
    else of that run is used, so that nothing of it is left in the program.

    Args:
        decoder: Whose model and states these are.
    """

    def __init__(self, decoder: CrossedDecoder) -> None:
        super().__init__()
        self.model, self._own_shape = decoder.model, decoder.own_shape
        self.register_buffer(STATE, torch.zeros_like(getattr(decoder, STATE)), persistent=False)
        self.register_buffer(SOURCE_STATE, torch.zeros_like(getattr(decoder, SOURCE_STATE)), persistent=False)

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:
        """Keeps a source; what was kept before is gone.

        Args:
            encoder_hidden_states: (1, T, C), T at most the columns of the state.

        Returns:
            (1,) integer, the columns that hold the source, T.

        Raises:
            UnsupportedModelError: The layers do not keep it in the way of others.
        """
        length = encoder_hidden_states.shape[1]
        both, heads, width = self._own_shape
        rows = projected_source(self.model, encoder_hidden_states, self._own_shape)
        getattr(self, SOURCE_STATE)[:both, :, :length] = rows  # what fills it up stays as it is, zeros
        # Every function declares both states, and coremltools takes none that is not written to. What is written hangs
        # on the input: of constants a program would hold the whole state as they leave it.
        nothing = (encoder_hidden_states[:, :1, :1] * 0)[:, None]
        getattr(self, STATE)[:, :, :1] = nothing.expand(both, heads, 1, width)
        return (encoder_hidden_states[0, 0, :1] * 0).long() + length


class TokenCache(StateCache):
    """A `StateCache` whose length is a tensor: modeling files count positions from it."""

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Gives the position of the token."""
        return self._position


class _PassedBy(StateCache):
    """Keeps nothing, and gives what it is given."""

    def write(self, first: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows[:1], rows[1:]


class _Recorded(StateCache):
    """Gives what it is given, and remembers it: what there is to keep of one token."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2, 1, 1, 1), torch.zeros((), dtype=torch.long))
        self.rows: list[SourceRows] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        self.rows.append(SourceRows(key_states, value_states))
        return key_states, value_states


class _Encoded(BaseModelOutput):
    """What an encoder gives; models ask their own for more, and get None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Masks(MaskMakers):
    """Masks over the source are added where its keys are attended to, and none is made."""

    def create_bidirectional_mask(self, *_: Any, **__: Any) -> None:
        """Gives none."""


def read_token(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    masks: tuple[Tensor, Tensor],
    own: StateCache,
    source: SourceCache,
    biases: RelativeBiases,
) -> tuple[Tensor, list[Tensor]]:
    """Runs a decoder over caches of ours, on one token.

    Args:
        model: The whole model.
        input_ids: (1, 1) integer.
        position: (1,) integer, of the token.
        masks: Over its own rows and over the source, as `CrossedDecoder.forward` takes them.
        own: Of its own rows.
        source: Of the source.
        biases: Those of relative positions.

    Returns:
        The logits (1, 1, vocabulary), and the weights of each layer's attention to the source, (1, heads, 1, columns).

    Raises:
        UnsupportedModelError: Not every attention could be masked, or something is not understood.
    """
    # In float32 as all else in the trace, whatever the program takes.
    causal_mask, encoder_mask = (mask.float() for mask in masks)
    attentions = MaskedAttentions(source, encoder_mask)
    hidden = torch.zeros(1, encoder_mask.shape[3], encoder_width(model.config))
    with biases.looked_up(position), _running(model, _Masks(causal_mask, position), causal_mask.shape[3], attentions):
        logits: Tensor = model(**_arguments(model, hidden, input_ids, position, BothCaches(own, source))).logits
    attentions.check(type(model).__name__, len(source.layers))
    return logits, attentions.source_weights


def of_heads(weights: Sequence[Tensor], heads: Sequence[tuple[int, int]]) -> Tensor:
    """The weights of some attentions to a source, (1, heads, columns).

    Args:
        weights: Of each layer, (1, heads of the layer, 1, columns).
        heads: Layer and head.
    """
    return torch.cat([weights[layer][:, head : head + 1, 0] for layer, head in heads], dim=1)


def projected_source(model: PreTrainedModel, encoder_hidden_states: Tensor, own_shape: tuple[int, int, int]) -> Tensor:
    """The keys and values of a source, (2 · layers, heads, T, width), of its states (1, T, C).

    Args:
        model: The whole model.
        encoder_hidden_states: (1, T, C).
        own_shape: What the layers keep of tokens; see `cache_shapes`.

    Raises:
        UnsupportedModelError: The layers do not keep it in the way of others.
    """
    source, position = CaughtSource(), torch.zeros(1, dtype=torch.long)
    attentions = MaskedAttentions(source, torch.zeros(1))
    both, heads, width = own_shape
    own = _PassedBy(torch.zeros(both, heads, 1, width), position[0])
    ids = torch.zeros(1, 1, dtype=torch.long)
    with _running(model, _Masks(torch.zeros(1, 1, 1, 1), position), 1, attentions):
        model(**_arguments(model, encoder_hidden_states, ids, position, BothCaches(own, source)))
    attentions.check(type(model).__name__, both // 2)
    return torch.cat([rows for layer in source.layers for rows in layer])


def check_written(model: nn.Module, own: StateCache, layers: int) -> None:
    """Refuses a run that did not write every layer's row once.

    Raises:
        UnsupportedModelError: The message has the layers.
    """
    if sorted(own.updated) != list(range(layers)):
        raise UnsupportedModelError(
            f"{type(model).__name__} wrote the layers {sorted(own.updated)} of its cache, and has {layers}"
        )


@contextmanager
def _running(
    model: PreTrainedModel, masks: MaskMakers, context_length: int, attentions: MaskedAttentions
) -> Iterator[None]:
    with masked_attentions(attentions), over_state(model, masks, context_length, CROSSED):
        yield


def _arguments(
    model: PreTrainedModel, hidden: Tensor, input_ids: Tensor, position: Tensor, cache: EncoderDecoderCache
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "encoder_outputs": _Encoded(last_hidden_state=hidden),
        "decoder_input_ids": input_ids,
        "past_key_values": cache,
        "use_cache": True,
    }
    if "decoder_position_ids" in inspect.signature(model.forward).parameters:
        arguments["decoder_position_ids"] = position[None]
    return arguments


def cache_shapes(model: PreTrainedModel) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """What the layers keep of tokens and of the source, from a run of the model itself.

    Args:
        model: On any device; on torch's meta device it needs no weights.

    Returns:
        Twice the layers, heads and width, of tokens and of the source.

    Raises:
        NoCacheError: Not every layer keeps keys and values of both.
        UnsupportedModelError: Keys and values, or layers, differ in shape.
    """
    hidden = torch.zeros(1, 2, encoder_width(model.config), device=model.device)
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    position = torch.zeros(1, dtype=torch.long, device=model.device)
    own, source = _Recorded(), CaughtSource()
    mask = torch.zeros(1, 1, 1, 1, device=model.device)
    attentions = MaskedAttentions(source, mask)
    with torch.no_grad(), without_padding(model), _running(model, _Masks(mask, position), 1, attentions):
        model(**_arguments(model, hidden, ids, position, BothCaches(own, source)))
    name = type(model).__name__
    if len(own.rows) != len(source.layers):
        raise NoCacheError(f"of {name}, {len(own.rows)} layers keep tokens and {len(source.layers)} the source")
    attentions.check(name, len(source.layers))
    found = []
    for what, layers in (("its tokens", own.rows), ("the source", source.layers)):
        shapes = {tuple(map(int, each.shape[1::2])) for layer in layers for each in layer}
        if len(shapes) > 1:
            raise UnsupportedModelError(f"the layers of {name} keep {what} in {len(shapes)} shapes; one is supported")
        ((heads, width),) = shapes
        found.append((2 * len(layers), heads, width))
    return found[0], found[1]


def encoder_width(config: PreTrainedConfig) -> int:
    """The width of an encoder's states, by the configuration of the whole model."""
    encoder = getattr(config, "encoder", config)
    names = ("hidden_size", "d_model")
    return next(int(getattr(encoder, name)) for name in names if getattr(encoder, name, None))
