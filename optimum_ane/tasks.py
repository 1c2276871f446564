"""The one table of tasks. It holds dotted names, resolved when used, so that it can lie at the bottom.

Adding a task is adding a row here and what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

Per = Literal["row", "token", "vocabulary"]
"""What an output has numbers for: each row, each token of a row, or each word of the vocabulary at each token."""

Modality = Literal["text", "image", "audio", "image-text", "audio-text"]
"""What the rows of a package are; `"image-text"` are texts and images, each with a program of its own, `"audio-text"`
sounds that a decoder writes the text of."""


@dataclass(frozen=True)
class OutputField:
    """One field of a task's output.

    Attributes:
        name: Of the field in transformers' output class.
        per: Where its numbers stand. Of `"token"` and `"vocabulary"` only positions that hold a token count.
        output: The package's name of it; None where that is the same.
        is_float32: Whether it leaves a float16 program as float32; see `cast_to_float16`. Sides of boxes do: they lie
            between 0 and 1, and near 1 the numbers of float16 are 0.39 pixels of an image of 800 apart.
        is_set: Whether the second axis holds a detector's queries, which are a set: their order says nothing.
    """

    name: str
    per: Per
    output: str | None = None
    is_float32: bool = False
    is_set: bool = False

    @property
    def in_package(self) -> str:
        """The package's name of it."""
        return self.output or self.name


@dataclass(frozen=True)
class Task:
    """What the library knows of one task of Optimum's.

    Attributes:
        name: Optimum's name.
        model_class: The class of ours that loads its packages, in `optimum_ane`.
        auto_class: The class of transformers that loads its originals.
        fields: The fields of its output that are compared, in the order in which modules return them.
        output_class: Dotted name of transformers' output class.
        evaluator: Dotted name of what scores it on a dataset: `module:attribute`; None where nothing does.
        swift: Dotted name of what writes the part of a card's Swift that is the task's own: `hub.swift_tasks`.
        python: Dotted name of the lines of a card's Python that call a loaded model: `hub.python_tasks`.
        pipeline_tag: The Hub's name.
        has_pipeline: Whether transformers 5 has a pipeline for it that gives more than a call of the model.
        has_labels: Whether the checkpoint's labels belong to it.
        xcode_previews: What Xcode's preview of such a package is, by `model_type`; see `metadata.PREVIEW_TYPE`.
            Of text Apple documents `bertQA` alone: a BERT that answers questions, for which Xcode has a tokenizer of
            its own. For text classification there is none (the classifiers of the table take images), so that
            nothing is written there.
        image_preview: What Xcode's preview of packages of it is that take images; empty where there is none. Source:
            see `metadata.PREVIEW_TYPE`.
        has_choices: Whether transformers' inputs have an axis of choices, (N, choices, S).
        modality: What its rows are.
        writes_text: Whether answers are read as texts, so that packages hold a tokenizer whatever their rows are.
    """

    name: str
    model_class: str
    auto_class: str
    fields: tuple[OutputField, ...]
    output_class: str
    evaluator: str | None
    swift: str
    python: str
    pipeline_tag: str
    has_pipeline: bool = False
    has_labels: bool = False
    xcode_previews: Mapping[str, str] = field(default_factory=dict)
    image_preview: str = ""
    has_choices: bool = False
    modality: Modality = "text"
    writes_text: bool = False

    @property
    def has_tokenizer(self) -> bool:
        """Whether packages need a tokenizer: for texts that go in, or that come out."""
        return "text" in self.modality or self.writes_text


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="audio-classification",
            model_class="ANEModelForAudioClassification",
            auto_class="AutoModelForAudioClassification",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:SequenceClassifierOutput",
            evaluator=None,
            swift="optimum_ane.hub.swift_tensors:classification",
            python="optimum_ane.hub.python_tasks:AUDIO_CLASSIFICATION",
            pipeline_tag="audio-classification",
            has_pipeline=True,
            has_labels=True,
            modality="audio",
        ),
        Task(
            name="automatic-speech-recognition",
            model_class="ANEModelForCTC",
            auto_class="AutoModelForCTC",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:CausalLMOutput",
            evaluator="optimum_ane.evaluation.ctc:CTC",
            swift="optimum_ane.hub.swift_speech:ctc",
            python="optimum_ane.hub.python_tasks:AUTOMATIC_SPEECH_RECOGNITION",
            pipeline_tag="automatic-speech-recognition",
            has_pipeline=True,
            modality="audio",
            writes_text=True,
        ),
        Task(
            name="depth-estimation",
            model_class="ANEModelForDepthEstimation",
            auto_class="AutoModelForDepthEstimation",
            fields=(OutputField("predicted_depth", "row"),),
            output_class="transformers.modeling_outputs:DepthEstimatorOutput",
            evaluator="optimum_ane.evaluation.depth_estimation:DepthEstimation",
            swift="optimum_ane.hub.swift_tensors:depth",
            python="optimum_ane.hub.python_tasks:DEPTH_ESTIMATION",
            pipeline_tag="depth-estimation",
            has_pipeline=True,
            image_preview="depthEstimation",
            modality="image",
        ),
        Task(
            name="feature-extraction",
            model_class="ANEModelForFeatureExtraction",
            auto_class="AutoModel",
            fields=(OutputField("last_hidden_state", "token"),),
            output_class="transformers.modeling_outputs:BaseModelOutput",
            evaluator="optimum_ane.evaluation.sentence_similarity:SentenceSimilarity",
            swift="optimum_ane.hub.swift_tasks:feature_extraction",
            python="optimum_ane.hub.python_tasks:FEATURE_EXTRACTION",
            pipeline_tag="feature-extraction",
        ),
        Task(
            name="fill-mask",
            model_class="ANEModelForMaskedLM",
            auto_class="AutoModelForMaskedLM",
            fields=(OutputField("logits", "vocabulary"),),
            output_class="transformers.modeling_outputs:MaskedLMOutput",
            evaluator="optimum_ane.evaluation.fill_mask:FillMask",
            swift="optimum_ane.hub.swift_tasks:fill_mask",
            python="optimum_ane.hub.python_tasks:FILL_MASK",
            pipeline_tag="fill-mask",
            has_pipeline=True,
        ),
        Task(
            name="image-classification",
            model_class="ANEModelForImageClassification",
            auto_class="AutoModelForImageClassification",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:ImageClassifierOutput",
            evaluator="optimum_ane.evaluation.image_classification:ImageClassification",
            swift="optimum_ane.hub.swift_tensors:classification",
            python="optimum_ane.hub.python_tasks:IMAGE_CLASSIFICATION",
            pipeline_tag="image-classification",
            has_pipeline=True,
            has_labels=True,
            image_preview="imageClassifier",
            modality="image",
        ),
        Task(
            name="image-segmentation",
            model_class="ANEModelForSemanticSegmentation",
            auto_class="AutoModelForSemanticSegmentation",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:SemanticSegmenterOutput",
            evaluator="optimum_ane.evaluation.image_segmentation:ImageSegmentation",
            swift="optimum_ane.hub.swift_tensors:segmentation",
            python="optimum_ane.hub.python_tasks:IMAGE_SEGMENTATION",
            pipeline_tag="image-segmentation",
            has_pipeline=True,
            has_labels=True,
            image_preview="imageSegmenter",
            modality="image",
        ),
        Task(
            name="image-to-text",
            model_class="ANEModelForImageTextToText",
            auto_class="AutoModelForImageTextToText",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:Seq2SeqLMOutput",
            evaluator="optimum_ane.evaluation.image_to_text:ImageToText",
            swift="optimum_ane.hub.swift_encoder_decoder:encoder_decoder",
            python="optimum_ane.hub.python_tasks:IMAGE_TO_TEXT",
            pipeline_tag="image-to-text",
            modality="image",
            writes_text=True,
        ),
        Task(
            name="multiple-choice",
            model_class="ANEModelForMultipleChoice",
            auto_class="AutoModelForMultipleChoice",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:MultipleChoiceModelOutput",
            evaluator="optimum_ane.evaluation.multiple_choice:MultipleChoice",
            swift="optimum_ane.hub.swift_tasks:multiple_choice",
            python="optimum_ane.hub.python_tasks:MULTIPLE_CHOICE",
            pipeline_tag="multiple-choice",
            has_choices=True,
        ),
        Task(
            name="object-detection",
            model_class="ANEModelForObjectDetection",
            auto_class="AutoModelForObjectDetection",
            fields=(
                OutputField("logits", "row", is_set=True),
                OutputField("pred_boxes", "row", is_float32=True, is_set=True),
            ),
            output_class="transformers.models.yolos.modeling_yolos:YolosObjectDetectionOutput",
            evaluator="optimum_ane.evaluation.object_detection:ObjectDetection",
            swift="optimum_ane.hub.swift_tensors:detection",
            python="optimum_ane.hub.python_tasks:OBJECT_DETECTION",
            pipeline_tag="object-detection",
            has_pipeline=True,
            has_labels=True,
            modality="image",
        ),
        Task(
            name="question-answering",
            model_class="ANEModelForQuestionAnswering",
            auto_class="AutoModelForQuestionAnswering",
            fields=(OutputField("start_logits", "token"), OutputField("end_logits", "token")),
            output_class="transformers.modeling_outputs:QuestionAnsweringModelOutput",
            evaluator="optimum_ane.evaluation.question_answering:QuestionAnswering",
            swift="optimum_ane.hub.swift_tasks:question_answering",
            python="optimum_ane.hub.python_tasks:QUESTION_ANSWERING",
            pipeline_tag="question-answering",
            xcode_previews={"bert": "bertQA"},
        ),
        Task(
            name="text-classification",
            model_class="ANEModelForSequenceClassification",
            auto_class="AutoModelForSequenceClassification",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:SequenceClassifierOutput",
            evaluator="optimum_ane.evaluation.text_classification:TextClassification",
            swift="optimum_ane.hub.swift_tasks:text_classification",
            python="optimum_ane.hub.python_tasks:TEXT_CLASSIFICATION",
            pipeline_tag="text-classification",
            has_pipeline=True,
            has_labels=True,
        ),
        Task(
            name="text-generation",
            model_class="ANEModelForCausalLM",
            auto_class="AutoModelForCausalLM",
            fields=(OutputField("logits", "vocabulary"),),
            output_class="transformers.modeling_outputs:CausalLMOutput",
            evaluator="optimum_ane.evaluation.text_generation:TextGeneration",
            swift="optimum_ane.hub.swift_tasks:text_generation",
            python="optimum_ane.hub.python_tasks:TEXT_GENERATION",
            pipeline_tag="text-generation",
        ),
        Task(
            name="text2text-generation",
            model_class="ANEModelForSeq2SeqLM",
            auto_class="AutoModelForSeq2SeqLM",
            fields=(OutputField("logits", "row"),),
            output_class="transformers.modeling_outputs:Seq2SeqLMOutput",
            evaluator="optimum_ane.evaluation.text2text_generation:Text2TextGeneration",
            swift="optimum_ane.hub.swift_encoder_decoder:encoder_decoder",
            python="optimum_ane.hub.python_tasks:TEXT_TO_TEXT",
            pipeline_tag="text2text-generation",
            writes_text=True,
        ),
        Task(
            name="token-classification",
            model_class="ANEModelForTokenClassification",
            auto_class="AutoModelForTokenClassification",
            fields=(OutputField("logits", "token"),),
            output_class="transformers.modeling_outputs:TokenClassifierOutput",
            evaluator="optimum_ane.evaluation.token_classification:TokenClassification",
            swift="optimum_ane.hub.swift_tasks:token_classification",
            python="optimum_ane.hub.python_tasks:TOKEN_CLASSIFICATION",
            pipeline_tag="token-classification",
            has_pipeline=True,
            has_labels=True,
        ),
        Task(
            name="zero-shot-image-classification",
            model_class="ANEModelForZeroShotImageClassification",
            auto_class="AutoModelForZeroShotImageClassification",
            fields=(
                OutputField("logits_per_image", "row"),
                OutputField("text_embeds", "row"),
                OutputField("image_embeds", "row"),
            ),
            output_class="transformers.models.clip.modeling_clip:CLIPOutput",
            evaluator="optimum_ane.evaluation.zero_shot_image_classification:ZeroShotImageClassification",
            swift="optimum_ane.hub.swift_dual_encoder:zero_shot",
            python="optimum_ane.hub.python_tasks:ZERO_SHOT_IMAGE_CLASSIFICATION",
            pipeline_tag="zero-shot-image-classification",
            has_pipeline=True,
            modality="image-text",
        ),
    )
}
"""The tasks, by Optimum's name."""

POOLED = (OutputField("pooler_output", "row", "sentence_embedding"),)
"""What feature extraction gives in place of hidden states where the package pools."""

SENTENCE_EMBEDDING = replace(
    TASKS["feature-extraction"],
    fields=POOLED,
    swift="optimum_ane.hub.swift_tasks:sentence_embedding",
    python="optimum_ane.hub.python_tasks:SENTENCE_EMBEDDING",
    pipeline_tag="sentence-similarity",
)
"""Feature extraction of packages that pool: Optimum has no name for it, the Hub has."""

_HIDDEN_STATES = (OutputField("last_hidden_state", "row"),)
"""Of images and sounds every position counts: patches, channels of a map, frames."""

FURTHER_ROWS: Mapping[tuple[str, Modality], Task] = {
    ("feature-extraction", "image"): replace(
        TASKS["feature-extraction"],
        model_class="ANEModelForImageFeatureExtraction",
        fields=_HIDDEN_STATES,
        evaluator=None,
        swift="optimum_ane.hub.swift_tensors:features",
        python="optimum_ane.hub.python_tasks:IMAGE_FEATURES",
        pipeline_tag="image-feature-extraction",
        modality="image",
    ),
    ("feature-extraction", "audio"): replace(
        TASKS["feature-extraction"],
        model_class="ANEModelForAudioFeatureExtraction",
        fields=_HIDDEN_STATES,
        evaluator=None,
        swift="optimum_ane.hub.swift_tensors:features",
        python="optimum_ane.hub.python_tasks:AUDIO_FEATURES",
        modality="audio",
    ),
    ("automatic-speech-recognition", "audio-text"): replace(
        TASKS["automatic-speech-recognition"],
        model_class="ANEModelForSpeechSeq2Seq",
        evaluator="optimum_ane.evaluation.speech_recognition:SpeechRecognition",
        auto_class="AutoModelForSpeechSeq2Seq",
        swift="optimum_ane.hub.swift_encoder_decoder:encoder_decoder",
        output_class="transformers.modeling_outputs:Seq2SeqLMOutput",
        modality="audio-text",
    ),
}
"""Tasks of which Optimum has one name for rows of several kinds: by name and kind, what `TASKS` does not hold."""


def task_row(task: str, pools: bool = False, modality: str = "text") -> Task:
    """The row of a task, of a package that pools or does not.

    Args:
        task: Optimum's name.
        pools: Whether the package gives one vector per row.
        modality: What its rows are; decides between rows of one name.

    Raises:
        KeyError: The table has no such task.
    """
    further = {kind: row for (name, kind), row in FURTHER_ROWS.items() if name == task}
    if modality in further:
        return further[modality]
    return SENTENCE_EMBEDDING if pools and task == SENTENCE_EMBEDDING.name else TASKS[task]


def compared_fields(task: str, pools: bool, modality: str = "text") -> tuple[OutputField, ...]:
    """The fields of a task's output that are compared; see `task_row`."""
    return task_row(task, pools, modality).fields


def all_rows() -> tuple[Task, ...]:
    """Every row of the table, with those that share a name: feature extraction of text, of images and of sound."""
    return (*TASKS.values(), *FURTHER_ROWS.values())


def resolve(name: str) -> Any:
    """Imports what a dotted name of the table stands for.

    Args:
        name: `package.module:attribute`.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
