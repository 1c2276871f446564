"""The weights of one chunk of a decoder, and of no other, into a model that was made without memory for any."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from optimum_ane.exporters.cached_decoder.chunks import DecoderChunk


def fill_chunk(chunk: DecoderChunk, weights: Mapping[str, Tensor]) -> None:
    """Gives a chunk of a model that was made on the meta device its weights, and asks for no others.

    They are the chunk's alone: the model that it was cut from stays without memory, and when the chunk goes they go.

    Args:
        chunk: Gets modules of its own.
        weights: Float32 tensors by the names of the whole model's; each is asked for once.

    Raises:
        KeyError: One is missing.
    """
    model = chunk.model = copy.deepcopy(chunk.model)  # of nothing but shapes
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        empty = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        for name in empty:
            buffer = module.get_buffer(name)
            # The empty model has the type of its checkpoint.
            dtype = torch.float32 if buffer.is_floating_point() else buffer.dtype
            module._buffers[name] = torch.empty_like(buffer, dtype=dtype, device="cpu")
        if any(prefix + name not in weights for name in empty):
            # transformers' own way to the buffers that no checkpoint holds; the parameters are still without memory.
            model._init_weights(module)
        for name in empty:
            if prefix + name in weights:
                module._buffers[name] = weights[prefix + name]
    filled: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in filled:
                    value = weights[f"{path}.{name}" if path else name]
                    filled[id(parameter)] = nn.Parameter(value, requires_grad=False)
                module._parameters[name] = filled[id(parameter)]
