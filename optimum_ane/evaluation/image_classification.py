"""Image classification: how often the right label has the highest score, or one of the five highest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optimum_ane.errors import DatasetError, UnsupportedModelError
from optimum_ane.evaluation.bootstrap import score_of_labels
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.image_evaluator import ImageEvaluator, ImageFeature
from optimum_ane.evaluation.image_files import FOLDER, ImageExamples, open_images, unknown_folders
from optimum_ane.evaluation.labels import LabelSpace
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.package.problem_types import SINGLE_LABEL, problem_type_of

BEST = 5
"""Among how many of the highest scores the right one is looked for."""


@dataclass(frozen=True)
class LabelledImages(ImageExamples):
    """Labelled images, ready to be scored.

    Attributes:
        labels: int64 (N,), ids of the checkpoint.
    """

    labels: np.ndarray


class ImageClassification(ImageEvaluator[LabelledImages, np.ndarray]):
    """Scores a classifier of images. A folder for each class, or columns: the image, the label."""

    task: ClassVar[str] = "image-classification"

    def load(self, spec: DatasetSpec) -> LabelledImages:
        """Finds labelled images; their labels become the checkpoint's.

        Raises:
            UnsupportedModelError: The checkpoint gives several labels an image, or a number.
            DatasetError: The dataset is flawed, or the checkpoint does not know its labels.
        """
        if problem_type_of(self.config) != SINGLE_LABEL:
            raise UnsupportedModelError(
                f"the checkpoint does {problem_type_of(self.config)}; images are scored with one label of many each"
            )
        found = open_images(spec, self.task, needs_labels=True)
        assert found.labels is not None
        space = LabelSpace(self.config.id2label, SINGLE_LABEL)
        if found.labels.column == FOLDER:
            unknown = [name for name in dict.fromkeys(found.labels.values) if not space.knows(name)]
            if unknown:
                raise unknown_folders(found.name, unknown, space.names)
        labels, mapping = space.encode(found.labels)
        return LabelledImages(found.name, "accuracy", mapping, found.images, labels)

    def answers(self, features: Sequence[ImageFeature], outputs: Sequence[Outputs]) -> Iterable[np.ndarray]:
        """Keeps the labels of the highest scores, the highest first."""
        return best_labels([output["logits"] for output in outputs])

    def score(self, examples: LabelledImages, answers: Sequence[np.ndarray]) -> Scores:
        """Measures how often the right label is the best, or among the best."""
        return score_best_labels(examples, examples.labels, np.stack(answers), len(self.config.id2label))


def best_labels(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The labels of the highest scores of each row, the highest first: int64 (at most 5,) each.

    Of equal scores the first counts, as `argmax` has it.
    """
    return [np.argsort(-scores, kind="stable")[:BEST].astype(np.int64) for scores in rows]


def score_best_labels(examples: ImageExamples, labels: np.ndarray, best: np.ndarray, classes: int) -> Scores:
    """Top-1 accuracy, and top-5 where there are more than five classes.

    Args:
        examples: The dataset.
        labels: int64 (N,), what is right.
        best: int64 (N, K), the labels of the highest scores.
        classes: How many there are.

    Raises:
        DatasetError: A label is none that the model has a score for.
    """
    if best.shape[1] < min(BEST, classes) or int(labels.max()) >= classes:
        raise DatasetError(
            f"{examples.name}: the checkpoint names {classes} labels, and the model gives scores of others; take the "
            "checkpoint that the package was made from"
        )
    right = best[:, 0] == labels
    metrics = {"accuracy": float(right.mean())}
    if classes > BEST:
        metrics[f"top_{BEST}_accuracy"] = float((best == labels[:, None]).any(axis=1).mean())
    return Scores(metrics, score_of_labels("accuracy", best[:, 0], labels), best[:, 0], int(right.sum()))
