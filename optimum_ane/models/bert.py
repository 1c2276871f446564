"""BERT, and the parts that its kin share with it by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn, zeros

from optimum_ane.exporters.config import TextEncoderANEConfig, register_for_ane
from optimum_ane.models.text import (
    DenseTanhPooler,
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


class BertSelfAttention(nn.Module):
    """Projections and attention, without the output projection."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.query = Projection(width, width, scale=(width // self.num_heads) ** -0.5)
        self.key = Projection(width, width)
        self.value = Projection(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return split_head_attention(self.query(x), self.key(x), self.value(x), mask, self.num_heads)


class BertOutput(nn.Module):
    """`LayerNorm(dense(x) + residual)`, after the attention and after the feed-forward."""

    def __init__(self, in_features: int, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(in_features, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, I, 1, S) and (B, C, 1, S) → (B, C, 1, S)."""
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    """Self-attention with its residual and norm."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config.hidden_size, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Module):
    """The first half of the feed-forward."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, config.intermediate_size)
        self.activation = get_activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, I, 1, S)."""
        return self.activation(self.dense(x))


class BertLayer(nn.Module):
    """Attention, then feed-forward."""

    attention_class: type[nn.Module] = BertAttention

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.attention = self.attention_class(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config.intermediate_size, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertModel(TextEncoder):
    """The encoder. The pooler is there for heads that ask for it."""

    def __init__(self, config: PretrainedConfig, add_pooler: bool = False, padding_id: int | None = None) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.layer_norm_eps,
            padding_id,
        )
        self.encoder = BertEncoder(config)
        if add_pooler:
            self.pooler = DenseTanhPooler(config.hidden_size)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`."""
        return self.encoder(self.embeddings(input_ids, token_type_ids), additive_mask(attention_mask))


class _Bert:
    prefix: ClassVar[str] = "bert"
    encoder_class: ClassVar[type[TextEncoder]] = BertModel


class BertForTokenClassification(_Bert, TokenClassification):
    """BERT with a label per token."""


class BertForQuestionAnswering(_Bert, QuestionAnswering):
    """BERT with start and end of an answer."""


class BertForSequenceClassification(_Bert, SequenceClassification):
    """BERT with a classifier on the pooled first token."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, add_pooler=True)
        self.classifier = Projection(config.hidden_size, config.num_labels)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(self.encoder.pooler(first))


class BertForMultipleChoice(BertForSequenceClassification):
    """BERT with one score per choice."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.classifier = Projection(config.hidden_size, 1)


class BertPredictionTransform(nn.Module):
    """`LayerNorm(activation(dense(x)))`, to the width of the word embeddings."""

    def __init__(self, config: PretrainedConfig, width: int) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, width)
        self.activation = get_activation(config.hidden_act)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, E, 1, S)."""
        return self.LayerNorm(self.activation(self.dense(x)))


class BertPredictions(nn.Module):
    """Hidden states to words. `bias` is the checkpoint's second name for `decoder.bias`, the one that is used."""

    def __init__(self, config: PretrainedConfig, width: int) -> None:
        super().__init__()
        self.transform = BertPredictionTransform(config, width)
        self.decoder = VocabularyProjection(width, config.vocab_size)
        self.bias = nn.Parameter(zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, S, V)."""
        return self.decoder(self.transform(x))


class BertForMaskedLM(_Bert, MaskedLM):
    """BERT with its masked-language-model head."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.cls = nn.ModuleDict({"predictions": BertPredictions(config, config.hidden_size)})

    def predict(self, hidden: Tensor) -> Tensor:
        """See `MaskedLM.predict`."""
        return self.cls["predictions"](hidden)


@register_for_ane("bert")
class BertANEConfig(TextEncoderANEConfig):
    """Export configuration of BERT."""

    MODULES = {
        "feature-extraction": BertModel,
        "fill-mask": BertForMaskedLM,
        "multiple-choice": BertForMultipleChoice,
        "question-answering": BertForQuestionAnswering,
        "text-classification": BertForSequenceClassification,
        "token-classification": BertForTokenClassification,
    }
