"""Scores that depend on the distance between query and key, without a gather in the layer."""

import torch.nn.functional as F
from torch import Tensor


def skew(scores: Tensor) -> Tensor:
    """Turns scores by distance into scores by key: `out[i, j] = scores[i, j − i + L − 1]`.

    A gather along the last axis would leave the engine; padding by one column and reading the rows at the length
    less one does the same with static reshapes. Source: the relative shift of Transformer-XL (Dai et al., 2019,
    appendix B), for both directions.

    Args:
        scores: (B, H, L, 2L − 1), the last axis running over j − i from −(L − 1) to L − 1.

    Returns:
        (B, H, L, L).

    Raises:
        ValueError: There are not 2L − 1 distances.
    """
    # Plain integers, or the tracer records arithmetic on shapes, which coremltools cannot convert.
    batch, heads, length, distances = (int(extent) for extent in scores.shape)
    if distances != 2 * length - 1:
        raise ValueError(f"{distances} distances are not those of {length} positions, which are {2 * length - 1}")
    padded = F.pad(scores, (1, 0)).reshape(batch, heads, distances + 1, length)
    return padded[:, :, 1:].reshape(batch, heads, length, distances)[..., :length]
