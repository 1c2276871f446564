"""BERT's layer: attention, residual, norm; then feed-forward, residual, norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from optimum_ane.nn import LayerNorm, Projection, add_submodule, get_activation, split_head_attention


class SelfAttention(nn.Module):
    """The projections onto query, key and value, and the attention, without the output projection.

    Args:
        width: C.
        num_heads: H.
        names: What the checkpoint calls query, key and value.
    """

    def __init__(self, width: int, num_heads: int, names: Sequence[str] = ("query", "key", "value")) -> None:
        super().__init__()
        self.num_heads, self.names = num_heads, tuple(names)
        for name, scale in zip(self.names, ((width // num_heads) ** -0.5, 1.0, 1.0), strict=True):
            self.add_module(name, Projection(width, width, scale=scale))

    def forward(self, x: Tensor, mask: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S); the mask as `nn.split_head_attention` takes it."""
        query, key, value = (self.get_submodule(name)(x) for name in self.names)
        return split_head_attention(query, key, value, mask, self.num_heads)


@dataclass(frozen=True)
class LayerNames:
    """What a checkpoint calls the parts of a layer.

    Attributes:
        attention: All of the attention but its output projection.
        attention_output: The output projection of the attention.
        attention_norm: The norm after the first residual.
        up: The first projection of the feed-forward.
        down: The second.
        output_norm: The norm after the second residual.
    """

    attention: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


class PostNormLayer(nn.Module):
    """`x = norm(attention(x) + x)`, then `x = norm(down(activation(up(x))) + x)`.

    Args:
        names: Of the parts.
        attention: From (B, C, 1, S), and whatever else the layer is called with, to (B, C, 1, S).
        width: C.
        inner_width: Channels between `up` and `down`.
        activation: As configurations name it.
        eps: Epsilon of both norms.
    """

    def __init__(
        self, names: LayerNames, attention: nn.Module, width: int, inner_width: int, activation: str, eps: float
    ) -> None:
        super().__init__()
        self.names = names
        self.activation = get_activation(activation)
        add_submodule(self, names.attention, attention)
        add_submodule(self, names.attention_output, Projection(width, width))
        add_submodule(self, names.attention_norm, LayerNorm(width, eps))
        add_submodule(self, names.up, Projection(width, inner_width))
        add_submodule(self, names.down, Projection(inner_width, width))
        add_submodule(self, names.output_norm, LayerNorm(width, eps))

    def forward(self, x: Tensor, *context: Tensor | Sequence[Tensor] | None) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S); `context` goes to the attention."""
        part, names = self.get_submodule, self.names
        attended = part(names.attention_output)(part(names.attention)(x, *context))
        x = part(names.attention_norm)(attended + x)
        inner = self.activation(part(names.up)(x))
        return part(names.output_norm)(part(names.down)(inner) + x)
