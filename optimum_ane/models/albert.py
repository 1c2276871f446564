"""ALBERT: few layers used many times over, on factorised embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertModel, make_layer
from optimum_ane.models.heads import Head, Transform, pooled_head
from optimum_ane.models.post_norm_layer import LayerNames
from optimum_ane.models.text import text_modules
from optimum_ane.nn import LayerStack

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ALBERT_LAYER = LayerNames(
    attention="attention",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    output_norm="full_layer_layer_norm",
)


class AlbertLayerGroup(nn.Module):
    """Layers that are repeated together."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList(make_layer(config, ALBERT_LAYER) for _ in range(config.inner_group_num))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        for layer in self.albert_layers:
            x = layer(x, mask)
        return x


class AlbertTransformer(nn.Module):
    """`num_hidden_layers` passes, shared out over `num_hidden_groups` groups of weights."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.num_passes = config.num_hidden_layers
        self.albert_layer_groups = nn.ModuleList(AlbertLayerGroup(config) for _ in range(config.num_hidden_groups))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        passes_per_group = self.num_passes / len(self.albert_layer_groups)
        for index in range(self.num_passes):
            x = self.albert_layer_groups[int(index / passes_per_group)](x, mask)
        return x


class AlbertModel(BertModel):
    """BERT's encoder with shared layers."""

    UNUSED = ("pooler.weight", "pooler.bias")

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(
            config, AlbertTransformer(config), config.embedding_size, "encoder.embedding_hidden_mapping_in"
        )

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`: each layer once, though it is called in several passes."""
        groups = self.encoder.albert_layer_groups
        return LayerStack(tuple(layer for group in groups for layer in group.albert_layers), self.encoder)


def albert_masked_lm(config: PretrainedConfig) -> Head:
    """ALBERT's decoder, on the width of the embeddings."""
    return Head(
        "predictions.decoder",
        Transform(
            "predictions.dense",
            config.embedding_size,
            config.hidden_act,
            "predictions.LayerNorm",
            config.layer_norm_eps,
        ),
        unused=("predictions.bias",),  # a second name for the decoder's
    )


@register_for_ane("albert")
class AlbertANEConfig(TextEncoderANEConfig):
    """Export configuration of ALBERT."""

    MODULES = text_modules(
        "albert",
        AlbertModel,
        {
            "fill-mask": albert_masked_lm,
            "multiple-choice": pooled_head("albert.pooler"),
            "text-classification": pooled_head("albert.pooler"),
        },
    )
