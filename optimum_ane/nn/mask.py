"""The additive attention mask."""

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
