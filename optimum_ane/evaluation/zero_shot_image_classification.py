"""Zero-shot image classification: how often the text of the right class is the one most like the image.

The text of a class is "a photo of a {}.", the first of CLIP's templates (Radford et al. 2021,
https://arxiv.org/abs/2103.00020); underscores of names are read as blanks. Images and texts are compared by the
product of their vectors: scale and bias of the checkpoint's logits change nothing in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.dataset_errors import checked_text, dataset_error, quoted
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.features import model_inputs
from optimum_ane.evaluation.image_classification import best_labels, score_best_labels
from optimum_ane.evaluation.image_evaluator import ImageEvaluator, ImageFeature
from optimum_ane.evaluation.image_files import ImageExamples, open_images
from optimum_ane.evaluation.labels import RawLabels
from optimum_ane.evaluation.model_answers import BATCH_SIZE, Outputs, accepted_inputs
from optimum_ane.evaluation.preprocessors import TextAndImagePreprocessor
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.progress import Progress, silent
from optimum_ane.tasks import OutputField
from optimum_ane.validation.comparison import Model

TEMPLATE = "a photo of a {}."

_SIMILARITIES = OutputField("similarities", "row")


@dataclass(frozen=True)
class ImagesOfClasses(ImageExamples):
    """Images, each of one of some classes.

    Attributes:
        classes: T names.
        labels: int64 (N,), numbers of the classes.
    """

    classes: list[str]
    labels: np.ndarray


class ZeroShotImageClassification(ImageEvaluator[ImagesOfClasses, np.ndarray]):
    """Scores a model of texts and images. A folder for each class, or columns: the image, the named label."""

    task: ClassVar[str] = "zero-shot-image-classification"
    outputs: ClassVar[str] = "similarities"

    @property
    def fields(self) -> tuple[OutputField, ...]:
        """What `_WithTexts` gives."""
        return (_SIMILARITIES,)

    def load(self, spec: DatasetSpec) -> ImagesOfClasses:
        """Finds images and the names of their classes.

        Raises:
            DatasetError: The dataset is flawed, its classes have no names, or there is one class alone.
        """
        found = open_images(spec, self.task, needs_labels=True)
        assert found.labels is not None
        classes, labels = _named_classes(found.labels)
        if len(classes) < 2:
            raise dataset_error(found.name, "has one class alone, which is always right", "add images of others")
        return ImagesOfClasses(found.name, "accuracy", "by name", found.images, classes, labels)

    def compare(
        self,
        reference: Model | None,
        candidate: Model,
        preprocessor: TextAndImagePreprocessor,
        examples: ImagesOfClasses,
        *,
        sequence_length: int,
        runtime: str,
        progress: Progress = silent,
    ) -> AccuracyReport:
        """See `Evaluator.compare`. The vectors of texts are made once.

        Raises:
            ValidationError: A model gives no vectors.
            DatasetError: The text of a class is longer than the package's texts.
        """
        texts = encode_classes(preprocessor.tokenizer, examples, sequence_length)
        return super().compare(
            None if reference is None else _WithTexts(reference, texts, "original"),
            _WithTexts(candidate, texts, "package"),
            preprocessor.processor,
            examples,
            sequence_length=sequence_length,
            runtime=runtime,
            progress=progress,
        )

    def answers(self, features: Sequence[ImageFeature], outputs: Sequence[Outputs]) -> Iterable[np.ndarray]:
        """Keeps the classes that are most like the image, the most first."""
        return best_labels([output[_SIMILARITIES.name] for output in outputs])

    def score(self, examples: ImagesOfClasses, answers: Sequence[np.ndarray]) -> Scores:
        """Measures how often the right class is the best, or among the best."""
        return score_best_labels(examples, examples.labels, np.stack(answers), len(examples.classes))


def encode_classes(tokenizer: Any, examples: ImagesOfClasses, sequence_length: int) -> dict[str, Tensor]:
    """Tokenises the texts of the classes, padded to one length, as models without a mask take them.

    Args:
        tokenizer: The checkpoint's tokenizer.
        examples: The dataset.
        sequence_length: Length of the package's texts, in tokens.

    Returns:
        int64 (T, sequence_length) each, by transformers' names.

    Raises:
        DatasetError: A text is longer.
    """
    texts = [TEMPLATE.format(name.replace("_", " ")) for name in examples.classes]
    for text, ids in zip(texts, tokenizer(texts, truncation=False, verbose=False)["input_ids"], strict=True):
        if len(ids) > sequence_length:
            what = f"the text {quoted(text)} has {len(ids)} tokens, and the package takes {sequence_length}"
            raise dataset_error(examples.name, what, "shorten the name of the class, or export longer texts")
    encoding = tokenizer(texts, padding="max_length", max_length=sequence_length, truncation=True)
    rows = [model_inputs(tokenizer, encoding, index) for index in range(len(texts))]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


class _WithTexts:
    """A model that is asked for images alone, and answers how like each is to some texts."""

    def __init__(self, model: Model, texts: Mapping[str, Tensor], who: str) -> None:
        known = accepted_inputs(model)
        self._model = model
        self._texts = {name: value for name, value in texts.items() if name in known} or dict(texts)
        self._who = who
        self._vectors: Tensor | None = None

    def __call__(self, **inputs: Tensor) -> SimpleNamespace:
        """Takes `pixel_values` of N images, and gives `similarities`, (N, T)."""
        pixel_values = inputs["pixel_values"]
        if self._vectors is None:
            # transformers' models take no texts without an image.
            self._vectors = torch.cat(
                [
                    self._ask(slice(start, start + BATCH_SIZE), pixel_values[:1], "text_embeds")
                    for start in range(0, len(self._texts["input_ids"]), BATCH_SIZE)
                ]
            )
        images = self._ask(slice(0, 1), pixel_values, "image_embeds")
        if images.ndim != 2 or images.shape[-1] != self._vectors.shape[-1]:
            raise ValidationError(
                f"the {self._who} gives vectors {tuple(images.shape)} of images and {tuple(self._vectors.shape)} of "
                "texts"
            )
        return SimpleNamespace(similarities=images @ self._vectors.T)

    def _ask(self, rows: slice, pixel_values: Tensor, field: str) -> Tensor:
        texts = {name: value[rows] for name, value in self._texts.items()}
        vectors = getattr(self._model(pixel_values=pixel_values, **texts), field, None)
        if vectors is None:
            raise ValidationError(f"the {self._who} gives no {field}; load the model with the class of its task")
        found: Tensor = vectors.detach().to("cpu", torch.float32)
        return found


def _named_classes(labels: RawLabels) -> tuple[list[str], np.ndarray]:
    """The names of all classes, and the number of each row's."""
    if labels.class_names is not None:
        names, numbers = list(labels.class_names), labels.values
        for index, value in enumerate(numbers):
            if not isinstance(value, int) or not 0 <= value < len(names):
                what = f"{quoted(value)} is none of the dataset's classes"
                raise labels.error(index, what, "take a labelled split, or mend the row")
        return names, np.asarray(numbers, dtype=np.int64)
    texts = [
        checked_text(value, labels.name, labels.rows[index], labels.column)
        for index, value in enumerate(labels.values)
    ]
    names = sorted(set(texts))
    if any(not name.strip() for name in names):
        raise DatasetError(f"{labels.name}: a class has no name; name it, or leave its images out")
    places = {name: index for index, name in enumerate(names)}
    return names, np.asarray([places[text] for text in texts], dtype=np.int64)
