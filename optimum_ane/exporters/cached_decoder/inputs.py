"""What goes into the functions of a decoder beside its tokens."""

from __future__ import annotations

import numpy as np

from optimum_ane.exporters.cached_decoder.masks import HIDDEN


def causal_mask(position: int, tokens: int, context_length: int, dtype: str = "float16") -> np.ndarray:
    """What is added to the scores of a decoder's tokens: they see the rows of the cache up to their own.

    Args:
        position: Of the first token.
        tokens: How many there are.
        context_length: Rows of the cache.
        dtype: Of the numbers.

    Returns:
        (1, 1, tokens, context), 0 for rows that a token sees and −3e4 for the others.
    """
    rows, own = np.arange(context_length), position + np.arange(tokens)
    return np.where(rows[None, :] <= own[:, None], 0.0, HIDDEN).astype(dtype)[None, None]
