"""Rotary position embeddings in the engine's layout."""

import torch
from torch import Tensor


def rotary_tables(length: int, num_heads: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """The cosines and sines by which queries and keys are rotated; constants of the graph for a fixed length.

    Computed from numbers alone, so that a module made on the meta device has them. The sine of the first half of each
    head carries the minus of the rotation. Source: Su et al., "RoFormer" (2021), equation 34, in the halves of
    GPT-NeoX, as transformers' `rotate_half`.

    Args:
        length: S.
        num_heads: H; each head has the same angles.
        head_width: D, even.
        base: Of the geometric series of wavelengths, in tokens: 2π · base^(2i / D).

    Returns:
        Cosines and signed sines, (1, H · D, 1, S) each, float32.
    """
    frequencies = 1.0 / (base ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width))
    angles = frequencies[:, None] * torch.arange(length, dtype=torch.float32)[None, :]
    cosine, sine = angles.cos(), angles.sin()
    tables = (torch.cat([cosine, cosine] * num_heads), torch.cat([-sine, sine] * num_heads))
    return tables[0][None, :, None, :], tables[1][None, :, None, :]


def apply_rotary(x: Tensor, tables: tuple[Tensor, Tensor], num_heads: int) -> Tensor:
    """Rotates all heads at once: `x * cos + rotate_half(x) * sin`.

    The halves of the heads are exchanged by one split and one concatenation of channels, without a reshape.

    Args:
        x: Queries or keys, (B, C, 1, S), the heads side by side on the channels.
        tables: From `rotary_tables`.
        num_heads: H.

    Returns:
        (B, C, 1, S).
    """
    cosine, sine = tables
    halves = x.split(x.shape[1] // (2 * num_heads), dim=1)
    exchanged = torch.cat([halves[index ^ 1] for index in range(2 * num_heads)], dim=1)
    return x * cosine + exchanged * sine
