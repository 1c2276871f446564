"""Which model types of transformers go by their graph, and for which tasks: what its own auto mappings list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transformers.models.auto import configuration_auto, modeling_auto

from optimum_ane.exporters.caption import CaptionANEConfig
from optimum_ane.exporters.config import ANEConfig, register_graph
from optimum_ane.exporters.decoder import DecoderANEConfig
from optimum_ane.exporters.dual_encoder import DualEncoderANEConfig
from optimum_ane.exporters.encoder_decoder import TextToTextANEConfig
from optimum_ane.exporters.stock_audio import StockAudioANEConfig
from optimum_ane.exporters.stock_image import StockImageANEConfig
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.exporters.whisper import SpeechToTextANEConfig
from optimum_ane.package.form import GENERATION, TEXT_TO_TEXT

_TEXT_TASKS: Mapping[str, Mapping[str, object]] = {
    "text-generation": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "fill-mask": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "multiple-choice": modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "question-answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
_IMAGE_TASKS: Mapping[str, Mapping[str, object]] = {
    "depth-estimation": modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "image-segmentation": modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    "object-detection": modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
}
_OF_TEXT: tuple[Mapping[str, object], ...] = (
    *_TEXT_TASKS.values(),
    modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
"""A model type in one of these takes tokens, which `MODEL_MAPPING_NAMES`, of every modality, does not tell."""

_NOT_OF_TRANSFORMERS = {"timm_backbone"}
"""Parts of other models whose modules are timm's. Whole models, `timm_wrapper`, are exported where timm is installed;
`configuration.load_config` refuses them where it is not."""


def _register(config_class: type[ANEConfig], model_types: Iterable[str], task: str) -> None:
    """Registers what transformers' own configurations belong to, and not what was registered with its mappings."""
    for model_type in sorted(configuration_auto.CONFIG_MAPPING_NAMES.keys() & model_types):
        register_graph(config_class, model_type, [task])


def _register_text() -> None:
    of_text = set().union(*_OF_TEXT) - modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.keys()
    _register(StockTextANEConfig, of_text & modeling_auto.MODEL_MAPPING_NAMES.keys(), "feature-extraction")
    for task, names in _TEXT_TASKS.items():
        _register(DecoderANEConfig if task == GENERATION else StockTextANEConfig, names.keys(), task)
    # What hears is registered for speech.
    of_sounds = (
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.keys()
        | modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
    )
    of_texts = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys() - of_sounds
    _register(TextToTextANEConfig, of_texts, TEXT_TO_TEXT)


def _register_images() -> None:
    """Of model types that are of text too, feature extraction is of text."""
    for task, names in _IMAGE_TASKS.items():
        _register(StockImageANEConfig, names.keys() - _NOT_OF_TRANSFORMERS, task)
    of_both = modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.keys()
    _register(DualEncoderANEConfig, of_both, "zero-shot-image-classification")
    towers = {name for name in modeling_auto.MODEL_MAPPING_NAMES if name.endswith("_vision_model")}
    of_images = modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES.keys() | towers | set().union(*_IMAGE_TASKS.values())
    others = set().union(*_OF_TEXT, of_both, _NOT_OF_TRANSFORMERS)
    _register(CaptionANEConfig, ["vision-encoder-decoder"], "image-to-text")
    _register(
        StockImageANEConfig, (of_images & modeling_auto.MODEL_MAPPING_NAMES.keys()) - others, "feature-extraction"
    )


def _register_audio() -> None:
    """Feature extraction of what has a decoder too is that of its encoder."""
    classifiers = modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.keys()
    # A language model that hears takes words beside sounds.
    of_speech = (
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.keys()
        - modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
    )
    of_characters = modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES.keys()
    of_sounds = classifiers | of_characters | of_speech
    others = set().union(*_OF_TEXT) - of_speech
    _register(StockAudioANEConfig, classifiers, "audio-classification")
    _register(StockAudioANEConfig, of_characters, "automatic-speech-recognition")
    _register(SpeechToTextANEConfig, ["whisper"], "automatic-speech-recognition")
    _register(
        StockAudioANEConfig, (of_sounds & modeling_auto.MODEL_MAPPING_NAMES.keys()) - others, "feature-extraction"
    )


_register_text()
_register_images()
_register_audio()
