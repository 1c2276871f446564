"""The attention of a decoder over its state: queries that share keys stand one behind the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from optimum_ane.errors import UnsupportedModelError

NAME = "optimum_ane_cached"
"""Of the attention function, for `attn_implementation`."""

_OF_NO_CONSEQUENCE = frozenset(
    {
        "position_ids",
        "is_causal",
        "use_cache",
        "output_attentions",
        "cache_position",
        "sliding_window",
        "layer_idx",
        "output_router_logits",
    }
)
"""Arguments that modeling files hand on and that change nothing here: the mask holds windows and causality."""


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Grouped scaled dot-product attention without repeated keys; see `attend`, whose arguments these are.

    Returns:
        What is mixed, and no weights.

    Raises:
        UnsupportedModelError: There is no mask, or an argument is not understood.
    """
    mixed, _ = attend(
        module, query, key, value, attention_mask, scaling, dropout, softcap=softcap, s_aux=s_aux, **others
    )
    return mixed, None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Grouped scaled dot-product attention without repeated keys.

    Args:
        module: The layer's attention.
        query: (1, H, Q, D).
        key: (1, K, context, D), K divides H.
        value: As `key`, of any width.
        attention_mask: Added to the scores, (1, 1, Q, context).
        scaling: Of the scores; D^−½ by default.
        dropout: Not used: modules are in evaluation mode.
        softcap: Scores s become c · tanh(s / c), before the mask.
        s_aux: A further score for each head, (H,), which takes part in the softmax and has no value: attention sinks.
        others: What else a modeling file hands on.

    Returns:
        (1, Q, H, D of `value`), contiguous as modeling files expect it; and the weights, (1, K, H / K · Q, context).

    Raises:
        UnsupportedModelError: There is no mask, or an argument is not understood.
    """
    name = type(module).__name__
    unknown = [key for key, given in others.items() if given is not None and key not in _OF_NO_CONSEQUENCE]
    if unknown:
        raise UnsupportedModelError(f"{name} hands its attention what is not understood: {', '.join(unknown)}")
    if attention_mask is None:
        raise UnsupportedModelError(f"{name} hands its attention no mask: every row of the cache would be seen")
    _, heads, length, width = query.shape
    key_heads = key.shape[1]
    groups = heads // key_heads
    scale = width**-0.5 if scaling is None else scaling
    grouped = (query * scale).reshape(1, key_heads, groups * length, width)
    scores = torch.matmul(grouped, key.transpose(2, 3))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + (attention_mask if length == 1 else attention_mask.repeat(1, 1, groups, 1))
    if s_aux is None:
        weights = scores.softmax(dim=-1)
    else:
        sinks = s_aux.reshape(1, key_heads, groups, 1).repeat_interleave(length, dim=2)
        weights = torch.cat((scores, sinks), dim=-1).softmax(dim=-1)[..., :-1]
    mixed = torch.matmul(weights, value)
    return mixed.reshape(1, heads, length, value.shape[3]).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, cached_attention)
