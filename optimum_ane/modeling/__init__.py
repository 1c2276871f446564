"""`ANEModelForX`: exported packages behind the interface of transformers' models."""

from optimum_ane.modeling.audio import (
    ANEModelForAudioClassification,
    ANEModelForAudioFeatureExtraction,
    ANEModelForCTC,
)
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.causal_lm import ANEModelForCausalLM
from optimum_ane.modeling.custom import ANEModelForCustomTasks
from optimum_ane.modeling.dual_encoder import ANEModelForZeroShotImageClassification
from optimum_ane.modeling.image import (
    ANEModelForDepthEstimation,
    ANEModelForImageClassification,
    ANEModelForImageFeatureExtraction,
    ANEModelForObjectDetection,
    ANEModelForSemanticSegmentation,
)
from optimum_ane.modeling.image_text_to_text import ANEModelForImageTextToText
from optimum_ane.modeling.registration import model_class_of, register
from optimum_ane.modeling.seq2seq_lm import ANEModelForSeq2SeqLM
from optimum_ane.modeling.speech_seq2seq import ANEModelForSpeechSeq2Seq
from optimum_ane.modeling.text import (
    ANEModelForFeatureExtraction,
    ANEModelForMaskedLM,
    ANEModelForMultipleChoice,
    ANEModelForQuestionAnswering,
    ANEModelForSequenceClassification,
    ANEModelForTokenClassification,
)

__all__ = [
    "ANEModel",
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
    "model_class_of",
]

register()
