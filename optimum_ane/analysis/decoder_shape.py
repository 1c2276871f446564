"""What a decoder is made of, from its configuration alone: its weights by name and shape, its layers, its caches.

The model is made on PyTorch's `meta` device, where tensors have shapes and no memory, and run once on a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optimum_ane.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

Place = Literal["start", "layer", "end"]

TABLE, PRODUCT, VECTOR = "gather", "conv", "add"
"""MIL types of the operations that read a weight: a table that is looked up in, a product, what is applied to each
element."""


@dataclass(frozen=True)
class DecoderWeight:
    """One weight.

    Attributes:
        name: In the checkpoint.
        shape: The extents as the program holds them: of a matrix the outputs first; of experts' matrices one behind
            the other.
        op_types: What reads it in the program.
        place: Before the layers, in one, or behind them.
        layer: Which, from 0 on; −1 outside the layers.
    """

    name: str
    shape: tuple[int, ...]
    op_types: tuple[str, ...]
    place: Place
    layer: int = -1

    @property
    def elements(self) -> int:
        """The number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def dense_bytes(self) -> int:
        """What it takes in float16."""
        return 2 * self.elements


@dataclass(frozen=True)
class LayerCache:
    """Keys and values that a layer keeps.

    Attributes:
        heads: Of keys and values.
        key_width: Features of a head's key.
        value_width: Features of a head's value.
    """

    heads: int
    key_width: int
    value_width: int

    def rows_bytes(self, rows: int) -> int:
        """What so many rows take in float16, keys and values together."""
        return 2 * self.heads * rows * (self.key_width + self.value_width)


@dataclass(frozen=True)
class DecoderShape:
    """A causal language model as far as its configuration tells.

    Attributes:
        model_type: transformers' name of the architecture.
        weights: Every weight once; a head that is tied to the embedding is one weight with it.
        layers: How many.
        caches: What the layers keep, in their order; fewer than layers where some share.
        query_heads: Attention heads.
        width: Features of a token between layers.
        vocabulary: Outputs of the head.
        rotary_width: Features of all tables of angles that a program holds, cosines and sines.
        positions: The longest text that the model was made for; None where its configuration does not say.
    """

    model_type: str
    weights: tuple[DecoderWeight, ...]
    layers: int
    caches: tuple[LayerCache, ...]
    query_heads: int
    width: int
    vocabulary: int
    rotary_width: int
    positions: int | None

    @property
    def parameters(self) -> int:
        """The number of parameters, a tied table once."""
        return sum(weight.elements for weight in self.weights)

    @property
    def is_tied(self) -> bool:
        """Whether the embedding is the head as well."""
        return any(set(weight.op_types) == {TABLE, PRODUCT} for weight in self.weights)

    def state_bytes(self, context: int) -> int:
        """What the cache of so many rows takes in float16: one state, whose layers all have the largest shape."""
        heads = max(cache.heads for cache in self.caches)
        width = max(max(cache.key_width, cache.value_width) for cache in self.caches)
        return len(self.caches) * LayerCache(heads, width, width).rows_bytes(context)

    def of_layer(self, layer: int) -> tuple[DecoderWeight, ...]:
        """The weights of one layer."""
        return tuple(weight for weight in self.weights if weight.layer == layer)


def read_decoder(config: PretrainedConfig) -> DecoderShape:
    """Finds out what a decoder is made of, without its weights.

    Args:
        config: Of a causal language model, or of a model of several parts whose text half is one.

    Raises:
        UnsupportedModelError: It is no causal language model, or keeps something else than keys and values.
    """
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config(decoder=True)
    if type(text) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedModelError(
            f"{config.model_type} is no causal language model of transformers; plans are for text-generation"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            text, attn_implementation="eager", experts_implementation="batched_mm"
        ).eval()
        caches = _run(model)
        layers = _layers(model)
    vocabulary, width = model.get_input_embeddings().weight.shape
    return DecoderShape(
        model_type=text.model_type,
        weights=tuple(_weights(model, layers)),
        layers=len(layers),
        caches=caches,
        query_heads=text.num_attention_heads,
        width=width,
        vocabulary=vocabulary,
        rotary_width=sum(
            4 * buffer.numel()
            for name, buffer in model.named_buffers()
            if name.split(".")[-1].endswith("inv_freq") and "original" not in name
        ),
        positions=getattr(text, "max_position_embeddings", None),
    )


def _run(model: PreTrainedModel) -> tuple[LayerCache, ...]:
    """Runs the model on a token, and says what its layers keep."""
    caches = []
    kept = _answer(model).past_key_values
    for layer in () if kept is None else kept.layers:
        if hasattr(layer, "keys") and layer.keys is None:
            continue  # it reads what another layer keeps
        if not hasattr(layer, "keys") or layer.keys.ndim != 4:
            raise UnsupportedModelError(
                f"{model.config.model_type} has layers that keep something else than keys and values "
                f"({type(layer).__name__}); there is no plan for them"
            )
        caches.append(LayerCache(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]))
    if not caches:
        raise UnsupportedModelError(f"{model.config.model_type} keeps no keys and values; plans are for decoders")
    return tuple(caches)


def _answer(model: PreTrainedModel) -> Any:
    import torch

    try:
        with torch.no_grad():
            return model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UnsupportedModelError(
            f"{model.config.model_type} cannot be run without its weights ({why:.200}); there is no plan for it"
        ) from error


def _layers(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    from optimum_ane.nn.find_layers import find_layers

    found = find_layers(model, lambda: _answer(model))
    if found is None:
        raise UnsupportedModelError(f"{model.config.model_type} has no list of layers that run one after another")
    return found.layers


def _weights(model: PreTrainedModel, layers: tuple[nn.Module, ...]) -> Iterator[DecoderWeight]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    of_layer = {id(p): number for number, layer in enumerate(layers) for p in layer.parameters()}
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is head and head is table and module is not model.get_input_embeddings():
                continue
            shape = tuple(parameter.shape)
            if isinstance(module, Conv1D) and len(shape) == 2:
                shape = shape[::-1]
            if len(shape) > 2:
                shape = (parameter.numel() // shape[-1], shape[-1])
            op_types: tuple[str, ...] = (PRODUCT,) if len(shape) == 2 else (VECTOR,)
            if isinstance(module, nn.Embedding):
                op_types = (TABLE, PRODUCT) if parameter is head else (TABLE,)
            layer = of_layer.get(id(parameter), -1)
            place: Place = "layer" if layer >= 0 else "start" if TABLE in op_types else "end"
            yield DecoderWeight(f"{module_name}.{name}".lstrip("."), shape, op_types, place, layer)
