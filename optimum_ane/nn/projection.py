"""Linear layers as 1×1 convolutions, the form in which the engine streams weights best.

Source: Apple, "Deploying Transformers on the Apple Neural Engine" (2022), principle 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_AXIS = 16384
"""Largest extent of an axis that every engine up to M3 and A16 takes."""


def vocabulary_pieces(length: int) -> list[tuple[int, int]]:
    """Where the pieces of a vocabulary begin and end: as few as no engine refuses, of one length but for the last."""
    size = -(-length // -(-length // MAX_AXIS))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


class Projection(nn.Conv2d):
    """`nn.Linear` over the channels of a (B, C, 1, S) tensor.

    The parameters carry the checkpoint's names and load from a `nn.Linear`'s state dict: a weight [O, I] becomes
    [O, I, 1, 1].

    Args:
        in_features: Input channels.
        out_features: Output channels.
        bias: Whether there is a bias.
        scale: Factor folded into weight and bias when a state dict is loaded, so that a constant scale costs nothing
            at run time. `state_dict()` gives the scaled values.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, scale: float = 1.0) -> None:
        super().__init__(in_features, out_features, kernel_size=1, bias=bias)
        self.scale = scale
        self.register_load_state_dict_pre_hook(_linear_to_convolution)


def _linear_to_convolution(module: Projection, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        value = state_dict.get(prefix + name)
        if value is None:
            continue
        if name == "weight" and value.ndim == 2:
            value = value[:, :, None, None]
        state_dict[prefix + name] = value if module.scale == 1.0 else value * module.scale


class VocabularyProjection(Projection):
    """A projection onto a vocabulary, in pieces that no engine refuses.

    An axis above 16,384 leaves the Neural Engine up to M3 and A16, so the output channels are computed in equal
    pieces below that and joined after the layout has been turned back, at the graph's edge.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, S, V): the logits in the usual layout."""
        return self.project(x, self.weight, self.bias)

    @staticmethod
    def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, 1, S), (V, C, 1, 1) and (V,) or None → (B, S, V)."""
        pieces = vocabulary_pieces(weight.shape[0])
        sizes = [stop - start for start, stop in pieces]
        # coremltools cannot convert a split of a constant into one piece.
        weights = [weight] if len(pieces) == 1 else weight.split(sizes)
        biases = [bias] * len(pieces) if bias is None or len(pieces) == 1 else bias.split(sizes)
        logits = [F.conv2d(x, *part).squeeze(2).transpose(1, 2) for part in zip(weights, biases, strict=True)]
        return logits[0] if len(pieces) == 1 else torch.cat(logits, dim=2)
