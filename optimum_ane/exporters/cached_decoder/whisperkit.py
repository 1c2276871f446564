"""Whisper as WhisperKit's host runs it: a host that keeps the cache, a column for each token, and hands the source on.

Source of names, shapes and types: `Sources/WhisperKit/Core` of github.com/argmaxinc/WhisperKit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, WhisperForConditionalGeneration

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.attention import cached_attention
from optimum_ane.exporters.cached_decoder.masks import MaskMakers, mask_makers
from optimum_ane.exporters.cached_decoder.source_cache import BothCaches, CaughtSource
from optimum_ane.exporters.cached_decoder.tied_table import tied_table
from optimum_ane.nn.mel_spectrogram import MelSpectrogram

NAME = "optimum_ane_whisperkit"
"""Of the attention function, for `attn_implementation`."""


class WhisperKitMel(nn.Module):
    """The spectrogram of one sound.

    Args:
        spectrogram: Of the checkpoint's feature extractor.
    """

    def __init__(self, spectrogram: MelSpectrogram) -> None:
        super().__init__()
        self.model = spectrogram

    def forward(self, audio: Tensor) -> Tensor:
        """(samples,) → (1, mels, 1, frames)."""
        features: Tensor = self.model(audio.float()[None]).unsqueeze(2)
        return features


class WhisperKitEncoder(nn.Module):
    """The encoder, its frames in the last axis.

    Args:
        model: In evaluation mode and float32; it is neither copied nor changed.
    """

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.model.encoder

    def forward(self, melspectrogram_features: Tensor) -> Tensor:
        """(1, mels, 1, frames) → (1, d, 1, positions)."""
        hidden = self.model(input_features=melspectrogram_features.squeeze(2)).last_hidden_state
        embeds: Tensor = hidden.transpose(1, 2).unsqueeze(2)
        return embeds


class WhisperKitDecoder(nn.Module):
    """The decoder for one token over a cache that the host keeps; it projects the source anew for each.

    Args:
        model: In evaluation mode and float32; it is neither copied nor changed beyond the calls.
        alignment_heads: Layer and head of the attentions to the source that follow the words; their mean is a further
            output. None has no such output.
    """

    def __init__(
        self, model: WhisperForConditionalGeneration, alignment_heads: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.model, self.alignment_heads = model, alignment_heads

    def forward(
        self,
        input_ids: Tensor,
        cache_length: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        kv_cache_update_mask: Tensor,
        encoder_output_embeds: Tensor,
        decoder_key_padding_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        """Reads one token.

        Args:
            input_ids: (1,) integer.
            cache_length: (1,) integer, the token's position.
            key_cache: (1, layers · d, 1, columns), whose column of the token holds anything.
            value_cache: As `key_cache`.
            kv_cache_update_mask: (1, columns), 1 for the token's own column, 0 for the others.
            encoder_output_embeds: (1, d, 1, positions).
            decoder_key_padding_mask: (1, columns), 0 for columns that the token sees, its own included, −1e4 for the
                others.

        Returns:
            The logits (1, 1, vocabulary); the token's keys and values, (1, layers · d, 1, 1) each; and, with alignment
            heads, the mean of their weights (1, positions).

        Raises:
            UnsupportedModelError: The model does not run each layer's attentions once, in order.
        """
        own = _Columns(self.model, key_cache, value_cache, kv_cache_update_mask)
        weights: list[Tensor] = []
        makers = MaskMakers(decoder_key_padding_mask.float()[:, None, None, :], cache_length)
        with _attention_of_ours(self.model, weights), mask_makers(self.model, makers), tied_table(self.model):
            logits: Tensor = self.model(
                decoder_input_ids=input_ids[:, None],
                encoder_outputs=(encoder_output_embeds.float().squeeze(2).transpose(1, 2),),
                past_key_values=BothCaches(own, CaughtSource()),
                decoder_position_ids=cache_length[:, None],
                use_cache=True,
            ).logits
        layers = self.model.config.decoder_layers
        if (len(own.keys), len(weights)) != (layers, layers):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has {layers} layers, and {len(own.keys)} wrote into their cache and "
                f"{len(weights)} attended to the source"
            )
        outputs = (logits, torch.cat(own.keys, 1), torch.cat(own.values, 1))
        if self.alignment_heads is None:
            return outputs
        heads = [weights[layer][:, head : head + 1, 0] for layer, head in self.alignment_heads]
        return (*outputs, torch.cat(heads, 1).mean(1))


class _Columns:
    """What the layers read and write of the host's cache, through the interface of transformers' `Cache`."""

    is_compileable = False

    def __init__(
        self, model: WhisperForConditionalGeneration, key_cache: Tensor, value_cache: Tensor, own_column: Tensor
    ) -> None:
        self._heads, self._width = model.config.decoder_attention_heads, model.config.d_model
        self._caches = (key_cache, value_cache)
        self._is_own = own_column.float()[:, None, None, :]
        self._is_kept = 1 - self._is_own
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Takes the token's keys and values, (1, heads, 1, width) each; gives those of all columns.

        Raises:
            UnsupportedModelError: The layers do not come in order.
        """
        if layer_idx != len(self.keys):
            raise UnsupportedModelError(f"layer {layer_idx} writes its cache after {len(self.keys)} others")
        gives = []
        for cache, rows, new in zip(self._caches, (self.keys, self.values), (key_states, value_states), strict=True):
            column = new.reshape(1, self._width, 1, 1)
            rows.append(column)
            first = layer_idx * self._width
            kept = cache[:, first : first + self._width].float()
            columns = kept * self._is_kept + column * self._is_own
            gives.append(columns.reshape(1, self._heads, -1, kept.shape[-1]).transpose(2, 3))
        return gives[0], gives[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Gives 0: the position is given to the model."""
        return 0


@contextmanager
def _attention_of_ours(model: nn.Module, weights: list[Tensor]) -> Iterator[None]:
    """Lets the decoder take `_attend` while the block runs, and collects its weights over the source by layer."""
    decoder: Any = model.get_decoder()
    before = decoder.config._attn_implementation
    with ExitStack() as stack:
        for layer in decoder.layers:
            hook = layer.encoder_attn.register_forward_hook(lambda _, __, outputs: weights.append(outputs[1]))
            stack.callback(hook.remove)
        decoder.config._attn_implementation = NAME
        try:
            yield
        finally:
            decoder.config._attn_implementation = before


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Tensor | None]:
    """Attends to the columns with their mask, and to the source, of which all positions count, without one."""
    if attention_mask is not None:
        return cached_attention(module, query, key, value, attention_mask, **arguments)
    # transformers has multiplied the queries by the scale.
    weights = torch.matmul(query, key.transpose(2, 3)).softmax(-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _attend)
