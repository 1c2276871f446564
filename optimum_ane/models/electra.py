"""ELECTRA: BERT's layers on narrower embeddings, with heads of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import BertModel
from optimum_ane.models.heads import Head, Transform, two_layer_head
from optimum_ane.models.text import text_modules
from optimum_ane.nn import first_position

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ElectraModel(BertModel):
    """BERT's encoder; embeddings of another width than the layers are projected."""

    UNUSED = ()

    def __init__(self, config: PretrainedConfig) -> None:
        projects = config.embedding_size != config.hidden_size
        super().__init__(
            config,
            embedding_width=config.embedding_size,
            embedding_projection="embeddings_project" if projects else None,
        )


def electra_masked_lm(config: PretrainedConfig) -> Head:
    """The generator's decoder, on the width of the embeddings; its activation is no entry of the configuration."""
    predictions = "generator_predictions"
    return Head(
        "generator_lm_head",
        Transform(
            f"{predictions}.dense",
            config.embedding_size,
            "gelu",
            f"{predictions}.LayerNorm",
            config.layer_norm_eps,
        ),
    )


def electra_summary(config: PretrainedConfig) -> Head:
    """A score of the first position's summary, as the configuration's `summary_*` entries describe it.

    Raises:
        ValueError: It describes a summary that is not of the first position.
    """
    if config.summary_type != "first":
        raise ValueError(f"summary_type {config.summary_type!r} is not supported; only 'first' is")
    dense = "sequence_summary.summary" if config.summary_use_proj else None
    summary = Transform(dense, config.hidden_size, config.summary_activation or "linear")
    return Head("classifier", summary, first_position)


@register_for_ane("electra")
class ElectraANEConfig(TextEncoderANEConfig):
    """Export configuration of ELECTRA."""

    MODULES = text_modules(
        "electra",
        ElectraModel,
        {
            "fill-mask": electra_masked_lm,
            "multiple-choice": electra_summary,
            "text-classification": two_layer_head("gelu"),  # where BERT has a tanh
        },
    )
