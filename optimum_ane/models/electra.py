"""ELECTRA: BERT's layers on narrower embeddings, with heads of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from torch.nn.functional import gelu

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertEncoder
from optimum_ane.models.text import (
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    TextEncoder,
    TokenClassification,
)
from optimum_ane.nn import LayerNorm, Projection, TextEmbeddings, VocabularyProjection, additive_mask, get_activation

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ElectraModel(TextEncoder):
    """The encoder; embeddings of another width than the layers are projected."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            config.embedding_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.layer_norm_eps,
        )
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = Projection(config.embedding_size, config.hidden_size)
        self.projects = config.embedding_size != config.hidden_size
        self.encoder = BertEncoder(config)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`."""
        x = self.embeddings(input_ids, token_type_ids)
        return self.encoder(self.embeddings_project(x) if self.projects else x, additive_mask(attention_mask))


class _Electra:
    prefix: ClassVar[str] = "electra"
    encoder_class: ClassVar[type[TextEncoder]] = ElectraModel


class ElectraForTokenClassification(_Electra, TokenClassification):
    """ELECTRA with a label per token."""


class ElectraForQuestionAnswering(_Electra, QuestionAnswering):
    """ELECTRA with start and end of an answer."""


class ElectraClassificationHead(nn.Module):
    """`out_proj(gelu(dense(first token)))`: where BERT has a tanh, ELECTRA's authors used a gelu."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, config.hidden_size)
        self.out_proj = Projection(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1) → (B, L, 1, 1)."""
        return self.out_proj(gelu(self.dense(first)))


class ElectraForSequenceClassification(_Electra, SequenceClassification):
    """ELECTRA with a two-layer classifier on the first token."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.classifier = ElectraClassificationHead(config)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(first)


class ElectraSequenceSummary(nn.Module):
    """The first token's summary as the configuration's `summary_*` entries describe it."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        if config.summary_type != "first":
            raise ValueError(f"summary_type {config.summary_type!r} is not supported; only 'first' is")
        self.activation: Callable[[Tensor], Tensor] = get_activation(config.summary_activation or "linear")
        if config.summary_use_proj:
            self.summary = Projection(config.hidden_size, config.hidden_size)
        self.projects = config.summary_use_proj

    def forward(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1) → (B, C, 1, 1)."""
        return self.activation(self.summary(first) if self.projects else first)


class ElectraForMultipleChoice(_Electra, SequenceClassification):
    """ELECTRA with one score per choice."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.sequence_summary = ElectraSequenceSummary(config)
        self.classifier = Projection(config.hidden_size, 1)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(self.sequence_summary(first))


class ElectraGeneratorPredictions(nn.Module):
    """`LayerNorm(gelu(dense(x)))`, back to the embeddings' width."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, config.embedding_size)
        self.LayerNorm = LayerNorm(config.embedding_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, E, 1, S)."""
        return self.LayerNorm(gelu(self.dense(x)))


class ElectraForMaskedLM(_Electra, MaskedLM):
    """ELECTRA's generator."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.generator_predictions = ElectraGeneratorPredictions(config)
        self.generator_lm_head = VocabularyProjection(config.embedding_size, config.vocab_size)

    def predict(self, hidden: Tensor) -> Tensor:
        """See `MaskedLM.predict`."""
        return self.generator_lm_head(self.generator_predictions(hidden))


@register_for_ane("electra")
class ElectraANEConfig(TextEncoderANEConfig):
    """Export configuration of ELECTRA."""

    MODULES = {
        "feature-extraction": ElectraModel,
        "fill-mask": ElectraForMaskedLM,
        "multiple-choice": ElectraForMultipleChoice,
        "question-answering": ElectraForQuestionAnswering,
        "text-classification": ElectraForSequenceClassification,
        "token-classification": ElectraForTokenClassification,
    }
