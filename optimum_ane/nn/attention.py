"""Attention, head by head, in the engine's layout."""

from collections.abc import Sequence

import torch
from torch import Tensor


def split_head_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | Sequence[Tensor], num_heads: int
) -> Tensor:
    """Scaled dot-product attention with one small product per head, softmax over the keys on axis 1.

    The key is transposed once for all heads, and both products are einsums that Core ML maps without a hidden
    transpose (`bchq,bkhc->bkhq`, `bkhq,bchk->bchq`). Source: Apple, "Deploying Transformers on the Apple Neural
    Engine", principles 2 to 4, and its `reference/multihead_attention.py`.

    Args:
        query: (B, C, 1, Q), already scaled: give its `Projection` the scale.
        key: (B, C, 1, K).
        value: (B, C, 1, K).
        mask: Added to the scores, (B, K, 1, 1) or (B or 1, K, 1, Q); or one such for each head.
        num_heads: H; divides C.

    Returns:
        (B, C, 1, Q), the heads side by side on the channels.
    """
    width = query.shape[1] // num_heads
    masks = [mask] * num_heads if isinstance(mask, Tensor) else mask
    queries = query.split(width, dim=1)
    keys = key.transpose(1, 3).split(width, dim=3)
    values = value.split(width, dim=1)
    heads = []
    for head_query, head_key, head_value, head_mask in zip(queries, keys, values, masks, strict=True):
        scores = torch.einsum("bchq,bkhc->bkhq", head_query, head_key) + head_mask
        heads.append(torch.einsum("bkhq,bchk->bchq", scores.softmax(dim=1), head_value))
    return torch.cat(heads, dim=1)
