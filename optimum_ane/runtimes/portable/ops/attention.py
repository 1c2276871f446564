"""Attention as one operation. Scores and weights are not rounded between its steps; an fp16 result is, once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Returns softmax(query · keyᵀ / √E + mask) · value.

    Args:
        query: (batch, …, L, E).
        key: (batch, …, S, E).
        value: (batch, …, S, EV).
        attn_mask: Broadcast to (batch, …, L, S): added to the scores, or, where it is of bool, the places that take
            part. A row in which none does is NaN, as coremltools' value inference has it; torch returns zeros.
    """
    if attn_mask is None:
        return F.scaled_dot_product_attention(query, key, value)
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if attn_mask.dtype is torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    else:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)
