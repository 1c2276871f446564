"""Export Hugging Face transformers to Core ML packages written for the Apple Neural Engine, and prove them right."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_ane.modeling import (
        ANEModelForAudioClassification,
        ANEModelForAudioFeatureExtraction,
        ANEModelForCausalLM,
        ANEModelForCTC,
        ANEModelForCustomTasks,
        ANEModelForDepthEstimation,
        ANEModelForFeatureExtraction,
        ANEModelForImageClassification,
        ANEModelForImageFeatureExtraction,
        ANEModelForImageTextToText,
        ANEModelForMaskedLM,
        ANEModelForMultipleChoice,
        ANEModelForObjectDetection,
        ANEModelForQuestionAnswering,
        ANEModelForSemanticSegmentation,
        ANEModelForSeq2SeqLM,
        ANEModelForSequenceClassification,
        ANEModelForSpeechSeq2Seq,
        ANEModelForTokenClassification,
        ANEModelForZeroShotImageClassification,
    )
    from optimum_ane.version import __version__
    from optimum_ane.workflows.convert_to_ane import convert_to_ane
    from optimum_ane.workflows.export import export
    from optimum_ane.workflows.optimize import optimize

# What coremltools logs at import on every machine that is not a Mac, or has newer libraries than its release. None of
# it is news to anyone here: the suite runs on these versions, and predictions off macOS are the portable runtime's.
_EXPECTED = ("Failed to load _ML", "scikit-learn version", "Torch version")
logging.getLogger("coremltools").addFilter(lambda record: not record.getMessage().startswith(_EXPECTED))

_HOMES = {
    "ANEModelForAudioClassification": "modeling",
    "ANEModelForAudioFeatureExtraction": "modeling",
    "ANEModelForCTC": "modeling",
    "ANEModelForCausalLM": "modeling",
    "ANEModelForCustomTasks": "modeling",
    "ANEModelForDepthEstimation": "modeling",
    "ANEModelForFeatureExtraction": "modeling",
    "ANEModelForImageClassification": "modeling",
    "ANEModelForImageFeatureExtraction": "modeling",
    "ANEModelForImageTextToText": "modeling",
    "ANEModelForMaskedLM": "modeling",
    "ANEModelForMultipleChoice": "modeling",
    "ANEModelForObjectDetection": "modeling",
    "ANEModelForQuestionAnswering": "modeling",
    "ANEModelForSemanticSegmentation": "modeling",
    "ANEModelForSeq2SeqLM": "modeling",
    "ANEModelForSequenceClassification": "modeling",
    "ANEModelForSpeechSeq2Seq": "modeling",
    "ANEModelForTokenClassification": "modeling",
    "ANEModelForZeroShotImageClassification": "modeling",
    "__version__": "version",
    "convert_to_ane": "workflows.convert_to_ane",
    "export": "workflows.export",
    "optimize": "workflows.optimize",
}

__all__ = [
    "ANEModelForAudioClassification",
    "ANEModelForAudioFeatureExtraction",
    "ANEModelForCTC",
    "ANEModelForCausalLM",
    "ANEModelForCustomTasks",
    "ANEModelForDepthEstimation",
    "ANEModelForFeatureExtraction",
    "ANEModelForImageClassification",
    "ANEModelForImageFeatureExtraction",
    "ANEModelForImageTextToText",
    "ANEModelForMaskedLM",
    "ANEModelForMultipleChoice",
    "ANEModelForObjectDetection",
    "ANEModelForQuestionAnswering",
    "ANEModelForSemanticSegmentation",
    "ANEModelForSeq2SeqLM",
    "ANEModelForSequenceClassification",
    "ANEModelForSpeechSeq2Seq",
    "ANEModelForTokenClassification",
    "ANEModelForZeroShotImageClassification",
    "__version__",
    "convert_to_ane",
    "export",
    "optimize",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: the command line must start without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optimum_ane' has no attribute {name!r}")
    value = getattr(import_module(f"optimum_ane.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
