"""The modules of a decoder in ANEMLL's layout: embeddings, chunks of layers, and the head in parts.

    input_ids ─► embeddings ─► hidden_states ─► chunk 1 ─► … ─► chunk N ─► hidden_states ─► head ─► logits1 … logitsN

Its clients make one state and hand it to every function of every chunk, so that each chunk holds the cache of all
layers, of which it uses its own. Their masks hold −inf, and the one of the Swift client opens a row too many: what
they give is intersected with the mask that the positions ask for, and made finite.

Source of names, shapes and calls: `tests/chat.py` and `AnemllCore/InferenceManager.swift` of github.com/Anemll/Anemll.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.chunks import (
    Chunk,
    DecoderLayers,
    ReachedError,
    cut_decoder,
    with_modules,
)
from optimum_ane.exporters.cached_decoder.masks import HIDDEN, MaskMakers
from optimum_ane.exporters.cached_decoder.module import STATE, call_arguments, over_state
from optimum_ane.exporters.cached_decoder.state_cache import StateCache
from optimum_ane.nn.projection import MAX_AXIS

PARTS = 8
"""Of the logits: what the clients take where nothing is said, and all that the Swift client samples from."""
MORE_PARTS = 16
"""Where a part of eight would be longer than the engine takes."""


def count_parts(vocab_size: int) -> int:
    """How many outputs the head has.

    Raises:
        UnsupportedModelError: The vocabulary is larger than sixteen of the engine's longest axes.
    """
    for parts in (PARTS, MORE_PARTS):
        if -(-vocab_size // parts) <= MAX_AXIS:
            return parts
    raise UnsupportedModelError(
        f"a vocabulary of {vocab_size} words is more than {MORE_PARTS} outputs of {MAX_AXIS} hold, the most that "
        "ANEMLL's clients read; choose --layout native"
    )


class AnemllEmbeddings(nn.Module):
    """The table of a decoder's words.

    Args:
        model: The whole.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        """(1, Q) integer → `hidden_states` (1, Q, C)."""
        hidden_states: Tensor = self.model(input_ids)
        return hidden_states


class AnemllChunk(nn.Module):
    """Some layers of a decoder, over a state of all layers; the last chunk's hidden states are those of the head.

    Args:
        model: In evaluation mode and float32; neither changed nor copied.
        layers: From `find_decoder_layers`.
        chunk: Which of them.
        context_length: Rows of the state.
    """

    def __init__(self, model: PreTrainedModel, layers: DecoderLayers, chunk: Chunk, context_length: int) -> None:
        super().__init__()
        self.layers, self.chunk, self.context_length = layers, chunk, context_length
        cut = cut_decoder(model, layers, chunk)
        base: Any = cut.base_model
        if base is cut:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not keep its layers apart from its head, which ANEMLL's layout has in a "
                "program of its own; choose --layout native"
            )
        self.model: PreTrainedModel = base
        shape = (2 * layers.count, layers.heads, context_length, layers.width)
        self.register_buffer(STATE, torch.zeros(shape), persistent=False)

    def forward(self, hidden_states: Tensor, position_ids: Tensor, causal_mask: Tensor, current_pos: Tensor) -> Tensor:
        """Reads the hidden states of tokens, and writes the rows of the chunk's layers.

        Args:
            hidden_states: (1, Q, C).
            position_ids: (Q,) integer.
            causal_mask: (1, 1, Q, context), 0 for rows that a token may see and −inf for others.
            current_pos: (1,) integer, the row of the first token.

        Returns:
            `output_hidden_states` (1, Q, C); of the last chunk, what the head takes.

        Raises:
            UnsupportedModelError: The model does what is not understood over a state; the message says what.
        """
        rows = torch.arange(self.context_length, dtype=position_ids.dtype)
        own = torch.where(rows[None, :] <= position_ids[:, None], 0.0, HIDDEN)[None, None]
        mask = torch.minimum(torch.maximum(causal_mask.float(), torch.tensor(HIDDEN)), own)
        cache = StateCache(getattr(self, STATE), current_pos[0])
        arguments = call_arguments(self.model, cache, position_ids, self.context_length)
        values = hidden_states.float()
        arguments["inputs_embeds"] = values
        stand_in: Any = None if self.chunk.is_first else self._layer(self.chunk.first - 1)
        if stand_in is not None:
            stand_in.enters = values
        try:
            with over_state(self.model, MaskMakers(mask, position_ids), self.context_length):
                answer: Tensor = self.model(**arguments).last_hidden_state
        except ReachedError as reached:
            answer = reached.hidden_states
        finally:
            if stand_in is not None:
                stand_in.enters = None
        written, own_layers = sorted(cache.updated), list(range(self.chunk.first, self.chunk.last))
        if written != own_layers:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} wrote the layers {written} of its cache in a chunk of {own_layers}"
            )
        return answer

    def _layer(self, index: int) -> nn.Module:
        """The layer of a number, in the model without its head."""
        _, _, path = self.layers.path.partition(".")
        return self.model.get_submodule(f"{path}.{index}")


class AnemllHead(nn.Module):
    """The head of a decoder, in parts of one length: hosts compute where a part begins by its number.

    Words that a vocabulary lacks to be cut evenly stand at its end, with a score that is never the highest.

    Args:
        model: The whole.
        layers: From `find_decoder_layers`.
        parts: From `count_parts`.
    """

    def __init__(self, model: PreTrainedModel, layers: DecoderLayers, parts: int) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise UnsupportedModelError(
                f"the head of {type(model).__name__} is a {type(head).__name__} and no linear layer, which alone can "
                "be cut into parts; choose --layout native"
            )
        self.vocab_size, self.length = head.out_features, -(-head.out_features // parts)
        self.model = nn.ModuleList(
            _with_part_of_head(model, layers, head, start, min(start + self.length, self.vocab_size))
            for start in range(0, self.vocab_size, self.length)
        )
        if len(self.model) < parts:
            raise UnsupportedModelError(
                f"a vocabulary of {self.vocab_size} words cannot be cut into {parts} parts of one length; choose "
                "--layout native"
            )

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """(1, 1, C) → the logits of each part, (1, 1, ⌈V / parts⌉)."""
        logits = [part(inputs_embeds=hidden_states.float(), use_cache=False).logits for part in self.model]
        missing = self.length - logits[-1].shape[-1]
        if missing:
            logits[-1] = torch.cat((logits[-1], torch.full((1, 1, missing), HIDDEN)), -1)
        return tuple(logits)


class _HandsOn(nn.Module):
    """In the place of what holds a model's layers: hands on what the head is to take."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Returns the hidden states as the model's own layers would."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def _with_part_of_head(
    model: PreTrainedModel, layers: DecoderLayers, head: nn.Linear, start: int, stop: int
) -> nn.Module:
    """A model without layers, with a part of the head; what its file does to logits is done to each part."""
    part = nn.Linear(head.in_features, stop - start, bias=head.bias is not None, device="meta")
    part.weight = nn.Parameter(head.weight[start:stop], requires_grad=False)
    if head.bias is not None:
        part.bias = nn.Parameter(head.bias[start:stop], requires_grad=False)
    path = next(path for path, module in model.named_modules() if module is head)
    return with_modules(model, {path: part, layers.path.rpartition(".")[0]: _HandsOn()})
