"""A stock decoder cut by its list of layers into chunks, each the module of a program of its own.

    input_ids ─► embeddings ─► layers 0 … 4 ─► hidden_states ─► layers 5 … 10 ─► … ─► norm, head ─► logits

The modeling file runs as it is in each chunk: what it computes before the chunk's layers is replaced by the chunk's
input where the layer before them would end, and it is left where the layer behind them would begin.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.masks import MaskMakers
from optimum_ane.exporters.cached_decoder.module import (
    STATE,
    View,
    call_arguments,
    over_state,
    run_with_cache,
)
from optimum_ane.exporters.cached_decoder.state_cache import StateCache
from optimum_ane.nn.find_layers import find_layers, first_argument


@dataclass(frozen=True)
class DecoderLayers:
    """The layers of a decoder, as a run of it shows them.

    Attributes:
        path: Of their list in the model.
        count: How many there are.
        give_tuples: Whether each returns a tuple whose first element are the hidden states.
        heads: Of the keys or values; the most where they differ.
        width: Of a key or value; the most where they differ.
        hidden_size: Of the hidden states.
    """

    path: str
    count: int
    give_tuples: bool
    heads: int
    width: int
    hidden_size: int


def find_decoder_layers(model: PreTrainedModel) -> DecoderLayers:
    """Finds the layers of a decoder by running it once.

    Args:
        model: On any device; on torch's meta device it needs no weights.

    Raises:
        UnsupportedModelError: It has no list of layers that are called one after another, or has other caches.
    """
    answers: list[Any] = []

    def run() -> None:
        answers.append(run_with_cache(model))

    results: list[Any] = []
    stack = find_layers(model, run)
    if stack is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of layers that are called one after another; export it in one piece"
        )
    path = next(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and [*module] == [*stack.layers]
    )
    handle = stack.layers[0].register_forward_hook(lambda _, __, result: results.append(result))
    with torch.no_grad():
        run()
    handle.remove()
    shapes = [each.shape for layer in answers[-1].layers for each in (layer.keys, layer.values)]
    if len(answers[-1].layers) != len(stack.layers):
        raise UnsupportedModelError(
            f"the {len(stack.layers)} layers of {type(model).__name__} keep {len(answers[-1].layers)} caches; a "
            "chunk's state holds one for each"
        )
    heads, width = max(shape[1] for shape in shapes), max(shape[3] for shape in shapes)
    is_tuple = isinstance(results[0], tuple)
    hidden = results[0][0] if is_tuple else results[0]
    return DecoderLayers(path, len(stack.layers), is_tuple, int(heads), int(width), int(hidden.shape[-1]))


@dataclass(frozen=True)
class Chunk:
    """The layers that lie in one program.

    Attributes:
        first: The first.
        last: The one behind the last.
        count: How many the model has.
    """

    first: int
    last: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether the embeddings lie in it."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether the last norm and the head lie in it."""
        return self.last == self.count


class DecoderChunk(nn.Module):
    """Some layers of a causal language model, with their keys and values in `kv_cache`.

    See `CachedDecoder`, whose way of running a model this shares. Chained, chunks answer as it does.

    Args:
        model: In evaluation mode and float32; it is neither changed nor copied, and what lies in other chunks is not
            used: it may be on the meta device.
        layers: From `find_decoder_layers`.
        chunk: Which of them.
        context_length: Rows of the state.
        answers: What `forward` of the last chunk returns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: DecoderLayers,
        chunk: Chunk,
        context_length: int,
        answers: View = "logits",
    ) -> None:
        super().__init__()
        self.layers, self.chunk = layers, chunk
        self.context_length, self.answers = context_length, answers
        self.model = cut_decoder(model, layers, chunk)
        shape = (2 * (chunk.last - chunk.first), layers.heads, context_length, layers.width)
        self.register_buffer(STATE, torch.zeros(shape), persistent=False)

    def forward(self, values: Tensor, position: Tensor, causal_mask: Tensor) -> Tensor:
        """Reads tokens, or their hidden states, and writes the rows of the chunk's layers.

        Args:
            values: For the first chunk `input_ids`, (1, Q) integer; for others `hidden_states`, (1, Q, C).
            position: (1,) integer, of the first token: the number of rows before it.
            causal_mask: (1, 1, Q, context), 0 for rows that a token sees, −3e4 for the others.

        Returns:
            `hidden_states` (1, Q, C); of the last chunk the logits (1, Q, vocabulary), or the position behind the last
            token (1,).

        Raises:
            UnsupportedModelError: The model does what is not understood over a state; the message says what.
        """
        length = values.shape[1]
        positions = position + torch.arange(length, dtype=position.dtype)
        cache = StateCache(getattr(self, STATE), position[0], first_layer=self.chunk.first)
        arguments = call_arguments(self.model, cache, positions, self.context_length)
        if self.chunk.is_first:
            arguments["input_ids"] = values
        else:
            values = values.float()
            # What the model makes of them before its first layer is not read.
            arguments["inputs_embeds"] = values
            self._stand_in(self.chunk.first - 1).enters = values
        answer: Tensor
        try:
            with over_state(self.model, MaskMakers(causal_mask.float(), positions), self.context_length):
                answer = self.model(**arguments).logits
        except ReachedError as reached:
            answer = reached.hidden_states
        finally:
            if not self.chunk.is_first:
                self._stand_in(self.chunk.first - 1).enters = None
        written, own = sorted(cache.updated), list(range(self.chunk.first, self.chunk.last))
        if written != own:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} wrote the layers {written} of its cache in a chunk of the layers {own}"
            )
        return position + length if self.chunk.is_last and self.answers == "position" else answer

    def _stand_in(self, index: int) -> _StandIn:
        layer = self.model.get_submodule(f"{self.layers.path}.{index}")
        assert isinstance(layer, _StandIn)
        return layer


class ReachedError(Exception):
    """The model has come to the first layer behind a chunk."""

    def __init__(self, hidden_states: Tensor) -> None:
        super().__init__()
        self.hidden_states = hidden_states


class _StandIn(nn.Module):
    """In the place of a layer that lies in another chunk.

    Args:
        layer: Whose attributes it has, without its weights being this module's.
        gives_tuple: As the layer does.
        is_behind: Whether the layer is behind the chunk's, where its hidden states are taken.

    Attributes:
        enters: The hidden states that a chunk begins with, for the layer before its first.
    """

    def __init__(self, layer: nn.Module, gives_tuple: bool, is_behind: bool) -> None:
        super().__init__()
        self._layer = (layer,)
        self._gives_tuple, self._is_behind = gives_tuple, is_behind
        self.enters: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Modeling files ask layers for their kind."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][0], name)

    def forward(self, *arguments: Any, **named: Any) -> Tensor | tuple[Tensor]:
        """Hands on the hidden states that it is given, or those that the chunk begins with."""
        hidden_states = first_argument(arguments, named)
        assert hidden_states is not None
        if self._is_behind:
            raise ReachedError(hidden_states)
        if self.enters is not None:
            hidden_states = self.enters
        return (hidden_states,) if self._gives_tuple else hidden_states


def cut_decoder(model: PreTrainedModel, layers: DecoderLayers, chunk: Chunk) -> PreTrainedModel:
    """A model that shares the modules of one chunk with another, and has nothing of the other chunks.

    Args:
        model: The whole; it is not changed.
        layers: From `find_decoder_layers`.
        chunk: Which of them.
    """
    replaced: dict[str, nn.Module] = {}
    for index in range(layers.count):
        if not chunk.first <= index < chunk.last:
            path = f"{layers.path}.{index}"
            layer = model.get_submodule(path)
            while isinstance(layer, _StandIn):
                layer = layer._layer[0]
            replaced[path] = _StandIn(layer, layers.give_tuples, index >= chunk.last)
    paths = {id(module): path for path, module in model.named_modules()}
    if not chunk.is_first:
        replaced[paths[id(model.get_input_embeddings())]] = nn.Identity()
    head = model.get_output_embeddings()
    if not chunk.is_last and head is not None:
        replaced[paths[id(head)]] = nn.Identity()
    return with_modules(model, replaced)


def with_modules(model: PreTrainedModel, replaced: Mapping[str, nn.Module]) -> PreTrainedModel:
    """A model that shares the modules of another, but for some that have others in their place, by path."""
    cut: PreTrainedModel = _with(model, replaced, "")  # type: ignore[assignment]
    return cut


def _with(module: nn.Module, replaced: Mapping[str, nn.Module], path: str) -> nn.Module:
    """A module with others in place of some below it; what none of these is below stays the same module."""
    if path in replaced:
        return replaced[path]
    prefix = f"{path}." if path else ""
    if not any(each.startswith(prefix) for each in replaced):
        return module
    changed = copy.copy(module)
    changed._modules = {
        name: child if child is None else _with(child, replaced, prefix + name)
        for name, child in module._modules.items()
    }
    return changed
