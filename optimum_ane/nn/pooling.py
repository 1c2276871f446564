"""One vector from the hidden states of a sequence, inside the graph."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from optimum_ane.nn.activations import get_activation
from optimum_ane.nn.projection import Projection

PoolingMode = Literal["mean", "cls", "lasttoken"]


def first_position(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The hidden state at the first position, whether a token stands there or padding.

    Args:
        hidden: (B, C, 1, S).
        attention_mask: Not used; each way to pool has the same arguments.

    Returns:
        (B, C, 1, 1).
    """
    return hidden[:, :, :, :1]


def first_token(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The hidden state of the first position that is not padding.

    Args:
        hidden: (B, C, 1, S).
        attention_mask: (B, S), integer, 1 for a token and 0 for padding. A row that is all padding pools to 0.

    Returns:
        (B, C, 1, 1).
    """
    # 2 · mask − (tokens so far) is 1 at the first token, and 0 or less everywhere else. Counted on the integers, at
    # the graph's edge: a running sum is not the engine's.
    is_first = (2 * attention_mask - attention_mask.cumsum(dim=1)).to(hidden.dtype).relu()
    return (hidden * is_first[:, None, None, :]).sum(dim=3, keepdim=True)


def last_token(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The hidden state of the last position that is not padding, which in a decoder has seen all others.

    Args:
        hidden: (B, C, 1, S).
        attention_mask: (B, S), integer, 1 for a token and 0 for padding. A row that is all padding pools to 0.

    Returns:
        (B, C, 1, 1).
    """
    # mask − (tokens behind it) is 1 at the last token, and 0 or less everywhere else. Counted on the integers, at the
    # graph's edge, as for the first token.
    to_come = attention_mask.sum(dim=1, keepdim=True) - attention_mask.cumsum(dim=1)
    is_last = (attention_mask - to_come).to(hidden.dtype).relu()
    return (hidden * is_last[:, None, None, :]).sum(dim=3, keepdim=True)


def mean_over_tokens(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of the hidden states at the positions that are not padding.

    Args:
        hidden: (B, C, 1, S).
        attention_mask: (B, S), integer, 1 for a token and 0 for padding. A row that is all padding pools to 0.

    Returns:
        (B, C, 1, 1).
    """
    weight = attention_mask[:, None, None, :].to(hidden.dtype)
    count = weight.sum(dim=3, keepdim=True).clamp(min=1.0)
    return (hidden * (weight / count)).sum(dim=3, keepdim=True)


class SentenceDense(nn.Module):
    """A linear layer and an activation after the pooling, as sentence-transformers' module `Dense` names them.

    Args:
        in_features: Width before.
        out_features: Width after.
        bias: Whether there is a bias.
        activation: Its name, see `get_activation`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = Projection(in_features, out_features, bias)
        self.activation = get_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, 1, 1) → (B, O, 1, 1)."""
        return self.activation(self.linear(x))


class SentencePooling(nn.Module):
    """Pools hidden states into one vector per sequence.

    Args:
        mode: `"mean"` averages over the tokens that are not padding, `"cls"` takes the first position, `"lasttoken"`
            the last token.
        normalize: Divide by the Euclidean norm, at the end.
        dense: Layers between the pooling and the norm.
    """

    def __init__(self, mode: PoolingMode, normalize: bool, dense: Sequence[SentenceDense] = ()) -> None:
        super().__init__()
        self.mode = mode
        self.normalize = normalize
        self.dense = nn.ModuleList(dense)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Pools.

        Args:
            hidden: (B, C, 1, S).
            attention_mask: (B, S), integer, 1 for a token and 0 for padding. A row that is all padding pools to 0.

        Returns:
            (B, C), or (B, O) of the last layer in `dense`.
        """
        pool = {"mean": mean_over_tokens, "cls": first_position, "lasttoken": last_token}[self.mode]
        pooled = pool(hidden, attention_mask)
        for dense in self.dense:
            pooled = dense(pooled)
        return (_normalize(pooled) if self.normalize else pooled).squeeze(3).squeeze(2)


def _normalize(x: Tensor) -> Tensor:
    # The square of a value above 256 overflows float16: bring the largest to 1 first. The floors keep a vector of
    # zeros at zero; after the first step the sum of squares is at least 1 for any other.
    x = x / x.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    return x * torch.rsqrt((x * x).sum(dim=1, keepdim=True).clamp(min=1e-4))
