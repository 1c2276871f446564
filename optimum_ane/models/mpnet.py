"""MPNet: BERT's layers with a relative position bias that all layers share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertModel, make_layer
from optimum_ane.models.post_norm_layer import LayerNames, SelfAttention
from optimum_ane.models.roberta import roberta_heads
from optimum_ane.models.text import text_modules

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# transformers writes these three into the model's code, not into the configuration.
PADDING_ID = 1
NUM_BUCKETS = 32
MAX_DISTANCE = 128


MPNET_LAYER = LayerNames(
    attention="attention.attn",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)


class MPNetEncoder(nn.Module):
    """The stack of layers, and the bias that each adds to its scores."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            make_layer(
                config, MPNET_LAYER, SelfAttention(config.hidden_size, config.num_attention_heads, ("q", "k", "v"))
            )
            for _ in range(config.num_hidden_layers)
        )
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        # A constant of the graph for a fixed length; with the mask added once per head, not once per layer and head.
        buckets = relative_position_buckets(x.shape[3])
        bias = self.relative_attention_bias.weight[buckets].permute(2, 0, 1).unsqueeze(2)
        masks = [head_bias + mask for head_bias in bias.split(1, dim=0)]
        for layer in self.layer:
            x = layer(x, masks)
        return x


def relative_position_buckets(length: int) -> Tensor:
    """T5's bidirectional buckets of the distance from query to key: exact when near, logarithmic further off.

    Args:
        length: S.

    Returns:
        (K, Q), int64: the bucket of each pair, keys first as the engine's scores have them.
    """
    positions = torch.arange(length)
    distance = positions[None, :] - positions[:, None]
    half = NUM_BUCKETS // 2
    exact = half // 2
    past, distance = (distance < 0).long() * half, distance.abs()
    steps = torch.log(distance.float().clamp(min=1) / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)
    far = (exact + steps.long()).clamp(max=half - 1)
    return past + torch.where(distance < exact, distance, far)


class MPNetModel(BertModel):
    """BERT's encoder with MPNet's stack; it has no token types."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, MPNetEncoder(config), padding_id=PADDING_ID)


@register_for_ane("mpnet")
class MPNetANEConfig(TextEncoderANEConfig):
    """Export configuration of MPNet."""

    MODULES = text_modules("mpnet", MPNetModel, roberta_heads("mpnet"))
    POSITIONS_AFTER_PADDING = True

    @property
    def padding_id(self) -> int:
        """See `TextANEConfig.padding_id`."""
        return PADDING_ID
