"""RoBERTa; `xlm_roberta.py` and `camembert.py` are it with other vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn, tanh, zeros
from torch.nn.functional import gelu

from optimum_ane.exporters.config import TextEncoderANEConfig, register_for_ane
from optimum_ane.models.bert import BertModel
from optimum_ane.models.text import (
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    TextEncoder,
    TokenClassification,
)
from optimum_ane.nn import LayerNorm, Projection, VocabularyProjection

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class RobertaModel(BertModel):
    """BERT's encoder with positions that are counted after the padding id."""

    def __init__(self, config: PretrainedConfig, add_pooler: bool = False) -> None:
        super().__init__(config, add_pooler, padding_id=config.pad_token_id)


class _Roberta:
    prefix: ClassVar[str] = "roberta"
    encoder_class: ClassVar[type[TextEncoder]] = RobertaModel


class RobertaForTokenClassification(_Roberta, TokenClassification):
    """RoBERTa with a label per token."""


class RobertaForQuestionAnswering(_Roberta, QuestionAnswering):
    """RoBERTa with start and end of an answer."""


class TanhClassificationHead(nn.Module):
    """`out_proj(tanh(dense(first token)))`."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.dense = Projection(width, width)
        self.out_proj = Projection(width, num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1) → (B, L, 1, 1)."""
        return self.out_proj(tanh(self.dense(first)))


class RobertaForSequenceClassification(_Roberta, SequenceClassification):
    """RoBERTa with a two-layer classifier on the first token."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.classifier = TanhClassificationHead(config.hidden_size, config.num_labels)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(first)


class RobertaForMultipleChoice(_Roberta, SequenceClassification):
    """RoBERTa with one score per choice, from the pooled first token."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, add_pooler=True)
        self.classifier = Projection(config.hidden_size, 1)

    def score(self, first: Tensor) -> Tensor:
        """See `SequenceClassification.score`."""
        return self.classifier(self.encoder.pooler(first))


class RobertaLMHead(nn.Module):
    """Hidden states to words. `bias` is the checkpoint's second name for `decoder.bias`, the one that is used."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.dense = Projection(config.hidden_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.decoder = VocabularyProjection(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, S, V)."""
        return self.decoder(self.layer_norm(gelu(self.dense(x))))


class RobertaForMaskedLM(_Roberta, MaskedLM):
    """RoBERTa with its masked-language-model head."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.lm_head = RobertaLMHead(config)

    def predict(self, hidden: Tensor) -> Tensor:
        """See `MaskedLM.predict`."""
        return self.lm_head(hidden)


@register_for_ane("roberta")
class RobertaANEConfig(TextEncoderANEConfig):
    """Export configuration of RoBERTa."""

    MODULES = {
        "feature-extraction": RobertaModel,
        "fill-mask": RobertaForMaskedLM,
        "multiple-choice": RobertaForMultipleChoice,
        "question-answering": RobertaForQuestionAnswering,
        "text-classification": RobertaForSequenceClassification,
        "token-classification": RobertaForTokenClassification,
    }
    # The type table has one row in every published checkpoint, and the tokenizers give no token types.
    HAS_TOKEN_TYPES = False
    POSITIONS_AFTER_PADDING = True
