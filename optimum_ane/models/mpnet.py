"""MPNet: BERT's layers with a relative position bias that all layers share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_ane.exporters.config import TextEncoderANEConfig, register_for_ane
from optimum_ane.models.bert import BertLayer
from optimum_ane.models.roberta import (
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForSequenceClassification,
)
from optimum_ane.models.text import DenseTanhPooler, QuestionAnswering, TextEncoder, TokenClassification
from optimum_ane.nn import LayerNorm, Projection, TextEmbeddings, additive_mask, split_head_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig

# transformers writes these three into the model's code, not into the configuration.
PADDING_ID = 1
NUM_BUCKETS = 32
MAX_DISTANCE = 128


class MPNetSelfAttention(nn.Module):
    """Multi-head self-attention with its output projection."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.q = Projection(width, width, scale=(width // self.num_heads) ** -0.5)
        self.k = Projection(width, width)
        self.v = Projection(width, width)
        self.o = Projection(width, width)

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return self.o(split_head_attention(self.q(x), self.k(x), self.v(x), masks, self.num_heads))


class MPNetAttention(nn.Module):
    """Self-attention with its residual and norm."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attn = MPNetSelfAttention(config)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return self.LayerNorm(self.attn(x, masks) + x)


class MPNetLayer(BertLayer):
    """BERT's layer around MPNet's attention."""

    attention_class = MPNetAttention


class MPNetEncoder(nn.Module):
    """The stack of layers, and the bias that each adds to its scores."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(MPNetLayer(config) for _ in range(config.num_hidden_layers))
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


class MPNetModel(TextEncoder):
    """The encoder. The pooler is there for heads that ask for it."""

    def __init__(self, config: PretrainedConfig, add_pooler: bool = False) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            type_vocab_size=0,
            eps=config.layer_norm_eps,
            padding_id=PADDING_ID,
        )
        self.encoder = MPNetEncoder(config)
        if add_pooler:
            self.pooler = DenseTanhPooler(config.hidden_size)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`; MPNet has no token types."""
        return self.encoder(self.embeddings(input_ids), additive_mask(attention_mask))


class _MPNet:
    prefix: ClassVar[str] = "mpnet"
    encoder_class: ClassVar[type[TextEncoder]] = MPNetModel


class MPNetForTokenClassification(_MPNet, TokenClassification):
    """MPNet with a label per token."""


class MPNetForQuestionAnswering(_MPNet, QuestionAnswering):
    """MPNet with start and end of an answer."""


class MPNetForSequenceClassification(_MPNet, RobertaForSequenceClassification):
    """MPNet with RoBERTa's two-layer classifier on the first token."""


class MPNetForMultipleChoice(_MPNet, RobertaForMultipleChoice):
    """MPNet with one score per choice, from the pooled first token."""


class MPNetForMaskedLM(_MPNet, RobertaForMaskedLM):
    """MPNet with RoBERTa's masked-language-model head."""


@register_for_ane("mpnet")
class MPNetANEConfig(TextEncoderANEConfig):
    """Export configuration of MPNet."""

    MODULES = {
        "feature-extraction": MPNetModel,
        "fill-mask": MPNetForMaskedLM,
        "multiple-choice": MPNetForMultipleChoice,
        "question-answering": MPNetForQuestionAnswering,
        "text-classification": MPNetForSequenceClassification,
        "token-classification": MPNetForTokenClassification,
    }
    HAS_TOKEN_TYPES = False

    @property
    def padding_id(self) -> int:
        """See `TextEncoderANEConfig.padding_id`."""
        return PADDING_ID
