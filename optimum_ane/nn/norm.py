"""Layer normalisation over the channels of a (B, C, 1, S) tensor."""

import torch
from torch import Tensor, nn

FLOAT16_EPSILON = 1e-7
"""Smallest epsilon that float16 still holds (as 1.19e-7); 1e-12, BERT's own, would become 0. ml-ane-transformers
ships the same value."""


class LayerNorm(nn.Module):
    """`nn.LayerNorm` over axis 1.

    Written in the order that coremltools, with the exporter's own passes, fuses into one `layer_norm`. The weight is
    never divided by, so weights of zero are as good as any other.

    Args:
        width: Number of channels.
        eps: Added to the variance.
        bias: Whether there is a bias.
    """

    def __init__(self, width: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_parameter("bias", nn.Parameter(torch.zeros(width)) if bias else None)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        normal = centred * torch.rsqrt(variance + self.eps)
        # Zeros are added where there is no bias: the passes know a norm by its multiplication and its addition.
        bias = torch.zeros_like(self.weight) if self.bias is None else self.bias
        return normal * self.weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def raise_epsilons_for_float16(module: nn.Module) -> None:
    """Raises, in place, each epsilon that float16 would round to zero to the smallest that it holds.

    Done on the way to a float16 package only: in float32 the module keeps the checkpoint's own value.
    """
    for child in module.modules():
        if isinstance(child, LayerNorm):
            child.eps = max(child.eps, FLOAT16_EPSILON)
