"""Additive attention masks."""

import torch
from torch import Tensor

MASKED = -1e4
"""Added to the score of a masked key. exp(−1e4) is 0 beside any other score, two such masks may be added without
leaving float16, and a row that is all padding comes out finite (an average over its tokens) where −inf gives NaN."""


def additive_mask(attention_mask: Tensor) -> Tensor:
    """Turns a padding mask into scores to add.

    A float mask that is added stays on the engine; a bool mask with `masked_fill` does not.

    Args:
        attention_mask: (B, K), integer, 1 for a token and 0 for padding.

    Returns:
        (B, K, 1, 1), float: 0 for a token, −1e4 for padding.
    """
    return (1.0 - attention_mask[:, :, None, None].float()) * MASKED


def window_mask(length: int, radius: int) -> Tensor:
    """Scores that keep each query to the keys near it; a constant of the graph for a fixed length.

    Args:
        length: S, of queries and of keys.
        radius: The farthest distance that is seen, in tokens to either side.

    Returns:
        (1, K, 1, Q), float: 0 within the radius, −1e4 beyond. Added to `additive_mask` once for all layers and heads.
    """
    positions = torch.arange(length)
    distances = (positions[:, None] - positions[None, :]).abs()
    return ((distances > radius).float() * MASKED)[None, :, None, :]
