"""RemBERT, not among the architectures of the package: shows what a new one that is like BERT takes.

BERT's layers on narrow embeddings, and a decoder wider than both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertModel
from optimum_ane.models.heads import Head, Transform, pooled_head
from optimum_ane.models.text import text_modules

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class RemBertModel(BertModel):
    """BERT's encoder; the embeddings are projected onto the layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(
            config,
            embedding_width=config.input_embedding_size,
            embedding_projection="encoder.embedding_hidden_mapping_in",
        )


def rembert_masked_lm(config: PretrainedConfig) -> Head:
    """RemBERT's decoder, on a width of its own."""
    predictions = "cls.predictions"
    return Head(
        f"{predictions}.decoder",
        Transform(
            f"{predictions}.dense",
            config.output_embedding_size,
            config.hidden_act,
            f"{predictions}.LayerNorm",
            config.layer_norm_eps,
        ),
    )


@register_for_ane("rembert")
class RemBertANEConfig(TextEncoderANEConfig):
    """Export configuration of RemBERT."""

    MODULES = text_modules(
        "rembert",
        RemBertModel,
        {
            "fill-mask": rembert_masked_lm,
            "multiple-choice": pooled_head("rembert.pooler.dense"),
            "text-classification": pooled_head("rembert.pooler.dense"),
        },
    )
