"""Operations that move values between the channel or batch axis and the spatial axes, and windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


@op("depth_to_space", exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Spreads channels over blocks: the place in the block is the slower part of the channel's index (TensorFlow)."""
    batch, channels, height, width = x.shape
    b = block_size
    blocks = x.reshape(batch, b, b, channels // (b * b), height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * b, width * b)


@op("space_to_depth", exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Undoes `depth_to_space`."""
    batch, channels, height, width = x.shape
    b = block_size
    blocks = x.reshape(batch, channels, height // b, b, width // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // b, width // b)


@op("pixel_shuffle", exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Spreads channels over blocks: the place in the block is the faster part of the channel's index (torch)."""
    return F.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle", exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Undoes `pixel_shuffle`."""
    return F.pixel_unshuffle(x, downscale_factor)


@op("space_to_batch", exact=True)
def space_to_batch(x: Tensor, block_shape: Sequence[int], paddings: Sequence[Sequence[int]]) -> Tensor:
    """Pads the spatial axes with zeros and moves blocks of them to the batch, of whose index they are the slower part.

    Args:
        x: (batch, channels, height, width).
        block_shape: The extents of a block.
        paddings: Before and after the height, before and after the width.
    """
    (top, bottom), (left, right) = paddings
    x = F.pad(x, (left, right, top, bottom))
    batch, channels, height, width = x.shape
    b, c = block_shape
    blocks = x.reshape(batch, channels, height // b, b, width // c, c)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(-1, channels, height // b, width // c)


@op("batch_to_space", exact=True)
def batch_to_space(x: Tensor, block_shape: Sequence[int], crops: Sequence[Sequence[int]]) -> Tensor:
    """Undoes `space_to_batch`, with what is to be cut off in the place of the padding."""
    (top, bottom), (left, right) = crops
    batch, channels, height, width = x.shape
    b, c = block_shape
    blocks = x.reshape(b, c, batch // (b * c), channels, height, width)
    whole = blocks.permute(2, 3, 4, 0, 5, 1).reshape(-1, channels, height * b, width * c)
    return whole[..., top : height * b - bottom, left : width * c - right]


@op("sliding_windows", exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Puts all windows along an axis in its place, and the elements of a window on an axis after it."""
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)
