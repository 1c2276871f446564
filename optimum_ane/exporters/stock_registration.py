"""Which model types of transformers go by their graph, and for which tasks: what its own auto mappings list."""

from __future__ import annotations

from collections.abc import Mapping

from transformers.models.auto import modeling_auto

from optimum_ane.exporters.config import register_graph
from optimum_ane.exporters.stock_text import StockTextANEConfig

_TEXT_TASKS: Mapping[str, Mapping[str, object]] = {
    "fill-mask": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "multiple-choice": modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "question-answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
_OF_TEXT: tuple[Mapping[str, object], ...] = (
    *_TEXT_TASKS.values(),
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
"""A model type in one of these takes tokens, which `MODEL_MAPPING_NAMES`, of every modality, does not tell."""


def _register_text() -> None:
    of_text = set().union(*_OF_TEXT)
    for model_type in sorted(of_text & modeling_auto.MODEL_MAPPING_NAMES.keys()):
        register_graph(StockTextANEConfig, model_type, ["feature-extraction"])
    for task, names in _TEXT_TASKS.items():
        for model_type in sorted(names):
            register_graph(StockTextANEConfig, model_type, [task])


_register_text()
