"""DistilBERT: BERT's layer under other names, without token types and without a pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.text import (
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    TextEncoder,
    TokenClassification,
)
from optimum_ane.nn import (
    LayerNorm,
    Projection,
    TextEmbeddings,
    VocabularyProjection,
    additive_mask,
    get_activation,
    split_head_attention,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

EPSILON = 1e-12
"""Of every layer norm: transformers writes it into the model's code, not into the configuration."""


class DistilBertAttention(nn.Module):
    """Multi-head self-attention with its output projection."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.num_heads = config.n_heads
        self.q_lin = Projection(config.dim, config.dim, scale=(config.dim // config.n_heads) ** -0.5)
        self.k_lin = Projection(config.dim, config.dim)
        self.v_lin = Projection(config.dim, config.dim)
        self.out_lin = Projection(config.dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return self.out_lin(split_head_attention(self.q_lin(x), self.k_lin(x), self.v_lin(x), mask, self.num_heads))


class DistilBertFeedForward(nn.Module):
    """`lin2(activation(lin1(x)))`."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.lin1 = Projection(config.dim, config.hidden_dim)
        self.lin2 = Projection(config.hidden_dim, config.dim)
        self.activation = get_activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return self.lin2(self.activation(self.lin1(x)))


class DistilBertLayer(nn.Module):
    """Attention, then feed-forward, each with residual and norm."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attention = DistilBertAttention(config)
        self.sa_layer_norm = LayerNorm(config.dim, EPSILON)
        self.ffn = DistilBertFeedForward(config)
        self.output_layer_norm = LayerNorm(config.dim, EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        x = self.sa_layer_norm(self.attention(x, mask) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class DistilBertTransformer(nn.Module):
    """The stack of layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DistilBertLayer(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class DistilBertModel(TextEncoder):
    """The encoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size, config.dim, config.max_position_embeddings, type_vocab_size=0, eps=EPSILON
        )
        self.transformer = DistilBertTransformer(config)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`; DistilBERT has no token types."""
        return self.transformer(self.embeddings(input_ids), additive_mask(attention_mask))


class _DistilBert:
    prefix: ClassVar[str] = "distilbert"
    encoder_class: ClassVar[type[TextEncoder]] = DistilBertModel


class DistilBertForTokenClassification(_DistilBert, TokenClassification):
    """DistilBERT with a label per token."""


class DistilBertForQuestionAnswering(_DistilBert, QuestionAnswering):
    """DistilBERT with start and end of an answer."""


class DistilBertForSequenceClassification(_DistilBert, SequenceClassification):
    """DistilBERT with a two-layer classifier on the first token."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.pre_classifier = Projection(config.dim, config.dim)
        self.classifier = Projection(config.dim, config.num_labels)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(torch.relu(self.pre_classifier(first)))


class DistilBertForMultipleChoice(DistilBertForSequenceClassification):
    """DistilBERT with one score per choice."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.classifier = Projection(config.dim, 1)


class DistilBertForMaskedLM(_DistilBert, MaskedLM):
    """DistilBERT with its masked-language-model head."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.vocab_transform = Projection(config.dim, config.dim)
        self.activation = get_activation(config.activation)
        self.vocab_layer_norm = LayerNorm(config.dim, EPSILON)
        self.vocab_projector = VocabularyProjection(config.dim, config.vocab_size)

    def predict(self, hidden: Tensor) -> Tensor:
        """See `MaskedLM.predict`."""
        return self.vocab_projector(self.vocab_layer_norm(self.activation(self.vocab_transform(hidden))))


@register_for_ane("distilbert")
class DistilBertANEConfig(TextEncoderANEConfig):
    """Export configuration of DistilBERT."""

    MODULES = {
        "feature-extraction": DistilBertModel,
        "fill-mask": DistilBertForMaskedLM,
        "multiple-choice": DistilBertForMultipleChoice,
        "question-answering": DistilBertForQuestionAnswering,
        "text-classification": DistilBertForSequenceClassification,
        "token-classification": DistilBertForTokenClassification,
    }
    HAS_TOKEN_TYPES = False
