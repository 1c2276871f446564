"""Object detection: how far a package's boxes lie from the original's, in pixels of the image, and its scores.

Both are asked on the same pixels, so that a query of the one is the query of the other that is closest to it: where a
detector picks its queries by their score, rounding changes their order. What counts are the original's detections:
queries whose best label scores 0.5 or more, or the ten best of an image that has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.bootstrap import ratio, score_of_counts
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.image_evaluator import ImageEvaluator, ImageFeature
from optimum_ane.evaluation.image_files import ImageExamples, open_images
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.validation.queries import match_queries

LEAST_SCORE = 0.5
"""What a detection scores at least, as in transformers' `post_process_object_detection`."""

FEWEST = 10
"""How many of the best queries count where none scores as much."""

LEAST_IOU = 0.5
"""How much two boxes overlap that are of one object, as in COCO's AP50 and PASCAL VOC."""


@dataclass(frozen=True)
class Detections:
    """What a detector says of one image, for each of Q queries.

    Attributes:
        labels: int64 (Q,), the best label.
        scores: float64 (Q, L), the probability of each label.
        boxes: float64 (Q, 4), left, top, right and bottom in pixels of the image.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def chosen(self) -> np.ndarray:
        """The queries that count as detections, int64 (K,), the best first."""
        best = self.scores.max(axis=1)
        order = np.argsort(-best, kind="stable")
        count = int((best >= LEAST_SCORE).sum())
        return order[: count or FEWEST]


@dataclass(frozen=True)
class DetectionDifferences:
    """How a package's detections in one image differ from the original's.

    Attributes:
        detections: How many both have, added.
        partners: How many of these have one of the same label among the other's, with an IoU of 0.5 or more.
        box_errors: float64 (K, 4), of the four sides of the original's K boxes, in pixels of the image, 0 or more.
        score_errors: float64 (K,), of the original's label, 0 or more.
    """

    detections: int
    partners: int
    box_errors: np.ndarray
    score_errors: np.ndarray


class ObjectDetection(ImageEvaluator[ImageExamples, DetectionDifferences]):
    """Scores a detector against its original. A folder of images, or a column of them; labels are not read."""

    task: ClassVar[str] = "object-detection"
    outputs: ClassVar[str] = "logits and boxes"
    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask")
    axes: ClassVar[dict[str, int]] = {"logits": 2, "pred_boxes": 2}

    def load(self, spec: DatasetSpec) -> ImageExamples:
        """Finds images."""
        found = open_images(spec, self.task, needs_labels=False)
        return ImageExamples(found.name, "matched_boxes", None, found.images)

    def needs_original(self, examples: ImageExamples) -> bool:
        """See `Evaluator.needs_original`: always."""
        return True

    def answers(self, features: Sequence[ImageFeature], outputs: Sequence[Outputs]) -> Iterable[DetectionDifferences]:
        """Of the original: no difference."""
        return self.answers_beside(features, outputs, outputs)

    def answers_beside(
        self, features: Sequence[ImageFeature], outputs: Sequence[Outputs], expected: Sequence[Outputs] | None
    ) -> Iterable[DetectionDifferences]:
        """Compares each image's detections with the original's."""
        assert expected is not None
        for feature, ours, theirs in zip(features, outputs, expected, strict=True):
            yield compare_detections(self._read(theirs, feature), self._read(ours, feature))

    def score(self, examples: ImageExamples, answers: Sequence[DetectionDifferences]) -> Scores:
        """Measures how many detections have a partner, and the errors of boxes and scores over all of the original's.

        The errors of boxes are over all four sides: the mean, and the largest.
        """
        counts = np.array([[answer.partners, answer.detections] for answer in answers])
        boxes = np.concatenate([answer.box_errors for answer in answers])
        scores = np.concatenate([answer.score_errors for answer in answers])
        metrics = {
            "matched_boxes": float(counts[:, 0].sum() / counts[:, 1].sum()),
            "mean_box_error": float(boxes.mean()),
            "largest_box_error": float(boxes.max()),
            "mean_score_error": float(scores.mean()),
            "largest_score_error": float(scores.max()),
        }
        resampled = score_of_counts(counts, lambda sums: ratio(sums[0], sums[1], np.nan))
        return Scores(metrics, resampled, None, None, {"detections of the original": len(scores)})

    def _read(self, output: Outputs, feature: ImageFeature) -> Detections:
        return read_detections(output["logits"], output["pred_boxes"], self.config.num_labels, feature.size)


def read_detections(logits: np.ndarray, boxes: np.ndarray, labels: int, size: tuple[int, int]) -> Detections:
    """Reads a detector's outputs as transformers' image processors do.

    Where there is a score more than there are labels it is that of no object, and scores are softmaxed with it (DETR,
    YOLOS); else each label has a probability of its own (RT-DETR).

    Args:
        logits: (Q, labels) or (Q, labels + 1).
        boxes: (Q, 4), centre, width and height as parts of the image's width and height.
        labels: How many labels the checkpoint has.
        size: Height and width of the image, in pixels.

    Raises:
        ValidationError: The shapes are others.
    """
    if logits.shape[1] not in (labels, labels + 1) or boxes.shape != (len(logits), 4):
        raise ValidationError(
            f"a detector of {labels} labels answers with logits {logits.shape} and boxes {boxes.shape} an image"
        )
    wide = logits.astype(np.float64)
    if logits.shape[1] == labels:
        scores = np.exp(-np.logaddexp(0, -wide))
    else:
        shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
        scores = (shifted / shifted.sum(axis=1, keepdims=True))[:, :-1]
    centre, extent = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    height, width = size
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1) * (width, height, width, height)
    return Detections(scores.argmax(axis=1), scores, corners)


def compare_detections(original: Detections, package: Detections) -> DetectionDifferences:
    """Compares what two detectors say of one image."""
    theirs, ours = original.chosen(), package.chosen()
    is_pair = overlaps(original.boxes[theirs], package.boxes[ours]) >= LEAST_IOU
    is_pair &= original.labels[theirs][:, None] == package.labels[ours]
    labels = original.labels[theirs]
    same = match_queries((original.scores, original.boxes), (package.scores, package.boxes))[theirs]
    return DetectionDifferences(
        detections=len(theirs) + len(ours),
        partners=int(is_pair.any(axis=1).sum() + is_pair.any(axis=0).sum()),
        box_errors=np.abs(original.boxes[theirs] - package.boxes[same]),
        score_errors=np.abs(original.scores[theirs, labels] - package.scores[same, labels]),
    )


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes.

    Args:
        first: (N, 4), left, top, right, bottom.
        second: (M, 4).

    Returns:
        (N, M); 0 for two boxes without area.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    whole = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
