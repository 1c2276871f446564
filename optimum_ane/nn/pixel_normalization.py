"""The image processor's arithmetic, inside a program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelNormalization(nn.Module):
    """Scales and shifts each channel of images, (B, channels, height, width) of 0 to 255.

    Args:
        scale: Of each channel.
        bias: Of each channel.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, scale: Sequence[float], bias: Sequence[float]) -> None:
        super().__init__()
        for name, numbers in (("scale", scale), ("bias", bias)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Gives what the image processor gives, of the same shape."""
        return pixels * self.scale + self.bias
