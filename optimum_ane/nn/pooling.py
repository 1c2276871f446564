"""Sentence embeddings: one vector from the hidden states of a sequence, inside the graph."""

from typing import Literal

import torch
from torch import Tensor, nn

PoolingMode = Literal["mean", "cls"]


class SentencePooling(nn.Module):
    """Pools hidden states into one vector per sequence. Has no parameters.

    Args:
        mode: `"mean"` averages over the tokens that are not padding, `"cls"` takes the first token.
        normalize: Divide by the Euclidean norm.
    """

    def __init__(self, mode: PoolingMode, normalize: bool) -> None:
        super().__init__()
        self.mode = mode
        self.normalize = normalize

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Pools.

        Args:
            hidden: (B, C, 1, S).
            attention_mask: (B, S), integer, 1 for a token and 0 for padding. A row that is all padding pools to 0.

        Returns:
            (B, C).
        """
        if self.mode == "cls":
            pooled = hidden[:, :, :, :1]
        else:
            weight = attention_mask[:, None, None, :].to(hidden.dtype)
            count = weight.sum(dim=3, keepdim=True).clamp(min=1.0)
            pooled = (hidden * (weight / count)).sum(dim=3, keepdim=True)
        return (_normalize(pooled) if self.normalize else pooled).squeeze(3).squeeze(2)


def _normalize(x: Tensor) -> Tensor:
    # The square of a value above 256 overflows float16: bring the largest to 1 first. The floors keep a vector of
    # zeros at zero; after the first step the sum of squares is at least 1 for any other.
    x = x / x.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    return x * torch.rsqrt((x * x).sum(dim=1, keepdim=True).clamp(min=1e-4))
