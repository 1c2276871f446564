"""RoBERTa; `xlm_roberta.py` and `camembert.py` are it with other vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertModel
from optimum_ane.models.heads import Head, HeadOf, Transform, pooled_head, two_layer_head
from optimum_ane.models.text import text_modules

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class RobertaModel(BertModel):
    """BERT's encoder with positions that are counted after the padding id."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, padding_id=config.pad_token_id)


def roberta_masked_lm(config: PretrainedConfig) -> Head:
    """RoBERTa's decoder; its activation is no entry of the configuration."""
    return Head(
        "lm_head.decoder",
        Transform("lm_head.dense", config.hidden_size, "gelu", "lm_head.layer_norm", config.layer_norm_eps),
        unused=("lm_head.bias",),  # a second name for the decoder's
    )


def roberta_heads(prefix: str) -> dict[str, HeadOf]:
    """The heads of RoBERTa's, on an encoder of this name."""
    return {
        "fill-mask": roberta_masked_lm,
        "multiple-choice": pooled_head(f"{prefix}.pooler.dense"),
        "text-classification": two_layer_head("tanh"),
    }


@register_for_ane("roberta")
class RobertaANEConfig(TextEncoderANEConfig):
    """Export configuration of RoBERTa."""

    MODULES = text_modules("roberta", RobertaModel, roberta_heads("roberta"))
    POSITIONS_AFTER_PADDING = True
