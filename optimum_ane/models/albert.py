"""ALBERT: few layers used many times over, on factorised embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn, tanh, zeros

from optimum_ane.exporters.config import TextEncoderANEConfig, register_for_ane
from optimum_ane.models.bert import BertForMultipleChoice, BertForSequenceClassification
from optimum_ane.models.text import (
    MaskedLM,
    QuestionAnswering,
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


class AlbertAttention(nn.Module):
    """Self-attention with its residual and norm."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.query = Projection(width, width, scale=(width // self.num_heads) ** -0.5)
        self.key = Projection(width, width)
        self.value = Projection(width, width)
        self.dense = Projection(width, width)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        attended = split_head_attention(self.query(x), self.key(x), self.value(x), mask, self.num_heads)
        return self.LayerNorm(self.dense(attended) + x)


class AlbertLayer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attention = AlbertAttention(config)
        self.ffn = Projection(config.hidden_size, config.intermediate_size)
        self.activation = get_activation(config.hidden_act)
        self.ffn_output = Projection(config.intermediate_size, config.hidden_size)
        self.full_layer_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        x = self.attention(x, mask)
        return self.full_layer_layer_norm(self.ffn_output(self.activation(self.ffn(x))) + x)


class AlbertLayerGroup(nn.Module):
    """Layers that are repeated together."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList(AlbertLayer(config) for _ in range(config.inner_group_num))

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
        self.embedding_hidden_mapping_in = Projection(config.embedding_size, config.hidden_size)
        self.albert_layer_groups = nn.ModuleList(AlbertLayerGroup(config) for _ in range(config.num_hidden_groups))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, E, 1, S) → (B, C, 1, S)."""
        x = self.embedding_hidden_mapping_in(x)
        passes_per_group = self.num_passes / len(self.albert_layer_groups)
        for index in range(self.num_passes):
            x = self.albert_layer_groups[int(index / passes_per_group)](x, mask)
        return x


class AlbertPooler(Projection):
    """BERT's pooler, without `dense` in its name."""

    def forward(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1) → (B, C, 1, 1)."""
        return tanh(super().forward(first))


class AlbertModel(TextEncoder):
    """The encoder. The pooler is there for heads that ask for it."""

    def __init__(self, config: PretrainedConfig, add_pooler: bool = False) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            config.embedding_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.layer_norm_eps,
        )
        self.encoder = AlbertTransformer(config)
        if add_pooler:
            self.pooler = AlbertPooler(config.hidden_size, config.hidden_size)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`."""
        return self.encoder(self.embeddings(input_ids, token_type_ids), additive_mask(attention_mask))


class _Albert:
    prefix: ClassVar[str] = "albert"
    encoder_class: ClassVar[type[TextEncoder]] = AlbertModel


class AlbertForTokenClassification(_Albert, TokenClassification):
    """ALBERT with a label per token."""


class AlbertForQuestionAnswering(_Albert, QuestionAnswering):
    """ALBERT with start and end of an answer."""


class AlbertForSequenceClassification(_Albert, BertForSequenceClassification):
    """ALBERT with BERT's classifier on the pooled first token."""


class AlbertForMultipleChoice(_Albert, BertForMultipleChoice):
    """ALBERT with one score per choice."""


class AlbertPredictions(nn.Module):
    """Hidden states to words. `bias` is the checkpoint's second name for `decoder.bias`, the one that is used."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, config.embedding_size)
        self.activation = get_activation(config.hidden_act)
        self.LayerNorm = LayerNorm(config.embedding_size, config.layer_norm_eps)
        self.decoder = VocabularyProjection(config.embedding_size, config.vocab_size)
        self.bias = nn.Parameter(zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, S, V)."""
        return self.decoder(self.LayerNorm(self.activation(self.dense(x))))


class AlbertForMaskedLM(_Albert, MaskedLM):
    """ALBERT with its masked-language-model head."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.predictions = AlbertPredictions(config)

    def predict(self, hidden: Tensor) -> Tensor:
        """See `MaskedLM.predict`."""
        return self.predictions(hidden)


@register_for_ane("albert")
class AlbertANEConfig(TextEncoderANEConfig):
    """Export configuration of ALBERT."""

    MODULES = {
        "feature-extraction": AlbertModel,
        "fill-mask": AlbertForMaskedLM,
        "multiple-choice": AlbertForMultipleChoice,
        "question-answering": AlbertForQuestionAnswering,
        "text-classification": AlbertForSequenceClassification,
        "token-classification": AlbertForTokenClassification,
    }
