"""What stands on a text encoder, described by its names in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from optimum_ane.nn import LayerNorm, Projection, add_submodule, first_position, get_activation

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Pooling = Callable[[Tensor, Tensor], Tensor]
"""From hidden states, (B, C, 1, S), and the attention mask, (B, S), to (B, C, 1, 1)."""


@dataclass(frozen=True)
class Transform:
    """`norm(activation(dense(x)))`: BERT's pooler, the first layer of a two-layer classifier, a decoder's transform.

    Attributes:
        dense: The projection's name in the checkpoint; None for a transform without one.
        width: Its output features.
        activation: As configurations name it, see `nn.get_activation`.
        norm: The layer norm's name in the checkpoint; None for a transform without one.
        eps: Epsilon of the norm.
        bias: Whether the projection has a bias.
        norm_bias: Whether the norm has one.
    """

    dense: str | None
    width: int
    activation: str
    norm: str | None = None
    eps: float = 0.0
    bias: bool = True
    norm_bias: bool = True

    def add_to(self, root: nn.Module, in_features: int) -> None:
        """Registers the parts under their names.

        Raises:
            ValueError: The activation is not known.
        """
        get_activation(self.activation)
        if self.dense is not None:
            add_submodule(root, self.dense, Projection(in_features, self.width, self.bias))
        if self.norm is not None:
            add_submodule(root, self.norm, LayerNorm(self.width, self.eps, self.norm_bias))

    def apply(self, root: nn.Module, x: Tensor) -> Tensor:
        """(B, I, 1, S) → (B, width, 1, S), with the parts that stand in `root`."""
        if self.dense is not None:
            x = root.get_submodule(self.dense)(x)
        x = get_activation(self.activation)(x)
        return x if self.norm is None else root.get_submodule(self.norm)(x)


@dataclass(frozen=True)
class Head:
    """From hidden states to scores: pooling, transform, projection.

    Attributes:
        projection: Name in the checkpoint of the projection onto labels or words.
        transform: What is computed before it.
        pooling: None gives scores for each position.
        bias: Whether the projection has a bias.
        tied_to: Name of the embedding table that is the projection's weight, in a checkpoint that keeps nothing but
            the bias under `projection`; None where the projection has a weight of its own, as most tied ones do.
        unused: Names of weights that a checkpoint has and no answer depends on.
    """

    projection: str
    transform: Transform | None = None
    pooling: Pooling | None = None
    bias: bool = True
    tied_to: str | None = None
    unused: tuple[str, ...] = ()


HeadOf = Callable[["PretrainedConfig"], Head]
"""Describes an architecture's head for one task, given a checkpoint's configuration."""


def head_per_token(projection: str) -> HeadOf:
    """A projection of each token, and nothing before it."""
    return lambda config: Head(projection)


def pooled_head(pooler: str) -> HeadOf:
    """BERT's classifier on the pooler of the first position; `pooler` is the name of the pooler's projection."""

    def describe(config: PretrainedConfig) -> Head:
        return Head("classifier", Transform(pooler, config.hidden_size, "tanh"), first_position)

    return describe


def two_layer_head(activation: str) -> HeadOf:
    """RoBERTa's classifier, `out_proj(activation(dense(first position)))`."""

    def describe(config: PretrainedConfig) -> Head:
        return Head(
            "classifier.out_proj", Transform("classifier.dense", config.hidden_size, activation), first_position
        )

    return describe
