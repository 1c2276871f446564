"""A stock decoder as the module of a program: tokens, a position and a mask in, logits out, its cache in a buffer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from optimum_ane.errors import NoCacheError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.attention import NAME
from optimum_ane.exporters.cached_decoder.masks import MaskMakers, mask_makers
from optimum_ane.exporters.cached_decoder.rotary import rotary_tables
from optimum_ane.exporters.cached_decoder.state_cache import StateCache
from optimum_ane.exporters.cached_decoder.tied_table import tied_table

STATE = "kv_cache"

View = Literal["logits", "position"]
"""What a function answers: the logits of its tokens, or the position behind them, which needs no head."""


class CachedDecoder(nn.Module):
    """A causal language model of transformers whose keys and values are kept in `kv_cache`.

    No modeling file is edited. While it runs, the model's cache is a `StateCache`, its masks are made of the
    program's, its rotary modules look their angles up, a table that its head shares is looked up in the head's form,
    and its attention is `cached_attention`; an older model that does not ask transformers for an attention function
    keeps its own.

    Args:
        model: In evaluation mode and float32; it is neither copied nor changed beyond the calls.
        context_length: Rows of the state.
        answers: What `forward` returns.
    """

    def __init__(self, model: PreTrainedModel, context_length: int, answers: View = "logits") -> None:
        super().__init__()
        self.model, self.context_length, self.answers = model, context_length, answers
        self.register_buffer(STATE, torch.zeros(state_shape(model, context_length)), persistent=False)

    def forward(self, input_ids: Tensor, position: Tensor, causal_mask: Tensor) -> Tensor:
        """Reads tokens and writes their rows.

        Args:
            input_ids: (1, Q) integer.
            position: (1,) integer, of the first token: the number of rows before it.
            causal_mask: (1, 1, Q, context), 0 for rows that a token sees, −3e4 for the others.

        Returns:
            The logits (1, Q, vocabulary), or the position behind the last token (1,).

        Raises:
            UnsupportedModelError: The model does what is not understood over a state; the message says what.
        """
        length = input_ids.shape[1]
        positions = position + torch.arange(length, dtype=position.dtype)
        state = getattr(self, STATE)
        cache = StateCache(state, position[0])
        arguments = call_arguments(self.model, cache, positions, self.context_length)
        # In float32 as all else in the trace, whatever the program takes.
        with over_state(self.model, MaskMakers(causal_mask.float(), positions), self.context_length):
            logits: Tensor = self.model(input_ids=input_ids, **arguments).logits
        layers = state.shape[0] // 2
        if sorted(cache.updated) != list(range(layers)):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} wrote the layers {sorted(cache.updated)} of its cache, and has {layers}"
            )
        return logits if self.answers == "logits" else position + length


def call_arguments(
    model: PreTrainedModel, cache: StateCache, positions: Tensor, context_length: int
) -> dict[str, Any]:
    """What a model is called with beside its tokens: a cache of ours, and their positions (Q,)."""
    arguments: dict[str, Any] = {
        "attention_mask": torch.ones(1, context_length, dtype=torch.long),
        "past_key_values": cache,
        "use_cache": True,
    }
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = positions[None]
    return arguments


@contextmanager
def over_state(
    model: PreTrainedModel, makers: MaskMakers, context_length: int, attention: str = NAME
) -> Iterator[None]:
    """Lets a model run over a state of ours while the block runs.

    Args:
        model: In evaluation mode.
        makers: Of its masks.
        context_length: Rows of the state.
        attention: Name of the attention function of files that ask transformers for one.

    Raises:
        UnsupportedModelError: The model does what is not understood over a state.
    """
    with ExitStack() as stack:
        stack.enter_context(_attention_of_ours(model, attention))
        stack.enter_context(rotary_tables(model, context_length))
        stack.enter_context(mask_makers(model, makers))
        stack.enter_context(tied_table(model))
        yield


@contextmanager
def _attention_of_ours(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Lets a model and its parts take an attention function while the block runs, if their files ask for one."""
    configs = _configs(model)
    before = [config._attn_implementation for config in configs]
    asks = any("ALL_ATTENTION_FUNCTIONS" in vars(sys.modules[type(each).__module__]) for each in model.modules())
    try:
        for config in configs:
            config._attn_implementation = name if asks else "eager"
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation = own


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    found = [
        module.config for module in model.modules() if isinstance(getattr(module, "config", None), PreTrainedConfig)
    ]
    return list({id(config): config for config in found}.values())


def state_shape(model: PreTrainedModel, context_length: int) -> tuple[int, int, int, int]:
    """The shape of the state, from what the layers' caches are in a run of the model itself.

    Args:
        model: On any device; on torch's meta device it needs no weights.
        context_length: Rows of the state.

    Returns:
        Keys and values of each layer, heads, rows, width; the largest where they differ.

    Raises:
        NoCacheError: Some layers keep something else of a text than keys and values, or nothing.
    """
    layers = run_with_cache(model).layers
    kept = [layer for layer in layers if layer.keys is not None]
    if layers[: len(kept)] != kept:
        raise NoCacheError(f"layers of {type(model).__name__} before others that keep keys and values keep none")
    # Layers behind these read what they keep.
    layers = kept
    shapes = [each.shape for layer in layers for each in (layer.keys, layer.values)]
    return 2 * len(layers), max(shape[1] for shape in shapes), context_length, max(shape[3] for shape in shapes)


def run_with_cache(model: PreTrainedModel) -> Any:
    """Runs a model on one token, and gives the cache that it makes.

    Raises:
        NoCacheError: It takes none, or some layers keep something else of a text than keys and values.
    """
    name = type(model).__name__
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise NoCacheError(f"{name} of transformers keeps no keys and values of the tokens that it has read")
    layers = DynamicCache(config=model.config).layers
    recurrent = [str(each) for each, layer in enumerate(layers) if isinstance(layer, LinearAttentionCacheLayerMixin)]
    if recurrent:
        raise NoCacheError(
            f"layers of {name} ({', '.join(recurrent[:4])}{', …' if len(recurrent) > 4 else ''}) keep one recurrent "
            "state of the whole text in place of keys and values of each token"
        )
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.no_grad(), without_padding(model):
        return model(input_ids=ids, use_cache=True).past_key_values


@contextmanager
def without_padding(model: PreTrainedModel) -> Iterator[None]:
    """Keeps models from looking for padding among their tokens, which have no values on the meta device."""
    # Set past the configurations' own checks, some of which ask for a number.
    fields = [vars(config) for config in _configs(model) if "pad_token_id" in vars(config)]
    before = [own["pad_token_id"] for own in fields]
    try:
        for own in fields:
            own["pad_token_id"] = None
        yield
    finally:
        for own, token in zip(fields, before, strict=True):
            own["pad_token_id"] = token
