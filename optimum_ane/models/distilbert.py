"""DistilBERT: BERT's layer under other names, without token types and without a pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.heads import Head, Transform
from optimum_ane.models.post_norm_layer import LayerNames, PostNormLayer, SelfAttention
from optimum_ane.models.text import TextEncoder, text_modules
from optimum_ane.nn import LayerStack, TextEmbeddings, additive_mask, first_position

if TYPE_CHECKING:
    from transformers import PretrainedConfig

EPSILON = 1e-12
"""Of every layer norm: transformers writes it into the model's code, not into the configuration."""

DISTILBERT_LAYER = LayerNames(
    attention="attention",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)


class DistilBertTransformer(nn.Module):
    """The stack of layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            PostNormLayer(
                DISTILBERT_LAYER,
                SelfAttention(config.dim, config.n_heads, ("q_lin", "k_lin", "v_lin")),
                config.dim,
                config.hidden_dim,
                config.activation,
                EPSILON,
            )
            for _ in range(config.n_layers)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class DistilBertModel(TextEncoder):
    """The encoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(
            config.vocab_size, config.dim, config.max_position_embeddings, type_vocab_size=0, eps=EPSILON
        )
        self.transformer = DistilBertTransformer(config)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`; DistilBERT has no token types."""
        return self.transformer(self.embeddings(input_ids), additive_mask(attention_mask))

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`."""
        return LayerStack(tuple(self.transformer.layer), self.transformer)


def distilbert_classifier(config: PretrainedConfig) -> Head:
    """DistilBERT's two-layer classifier on the first position."""
    return Head("classifier", Transform("pre_classifier", config.dim, "relu"), first_position)


def distilbert_masked_lm(config: PretrainedConfig) -> Head:
    """DistilBERT's decoder."""
    transform = Transform("vocab_transform", config.dim, config.activation, "vocab_layer_norm", EPSILON)
    return Head("vocab_projector", transform)


@register_for_ane("distilbert")
class DistilBertANEConfig(TextEncoderANEConfig):
    """Export configuration of DistilBERT."""

    MODULES = text_modules(
        "distilbert",
        DistilBertModel,
        {
            "fill-mask": distilbert_masked_lm,
            "multiple-choice": distilbert_classifier,
            "text-classification": distilbert_classifier,
        },
    )
