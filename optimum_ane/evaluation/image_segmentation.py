"""Semantic segmentation: how many points of an image a package gives the class that the original gives.

Maps are of the image's own size: scores are enlarged bilinearly and the highest is taken, as transformers'
`post_process_semantic_segmentation` does. Intersection over union is summed up over all images, class by class, and
averaged over the classes that occur in one of the two maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.bootstrap import score_of_counts
from optimum_ane.evaluation.dataset_errors import dataset_error
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.file_columns import read_file
from optimum_ane.evaluation.image_evaluator import ImageEvaluator, ImageFeature
from optimum_ane.evaluation.image_files import FolderImages, ImageExamples, image_paths, open_images
from optimum_ane.evaluation.images import MAX_BYTES, open_class_map
from optimum_ane.evaluation.model_answers import Outputs

IMAGES, MASKS = "images", "masks"
"""The folders of a dataset with labels. Files of equal names, but for their suffix, belong together."""

IGNORED = 255
"""The id of points that are not scored, where the configuration names no other."""

_NUMBERS_AT_ONCE = 16_000_000
"""Enlarged scores that are held at once: 64 MB."""


@dataclass(frozen=True)
class SegmentedImages(ImageExamples):
    """Images, with maps of their classes where the dataset has them.

    Attributes:
        masks: Paths of N maps; None without any.
    """

    masks: list[str] | None


@dataclass(frozen=True)
class ClassCounts:
    """How two maps of one image overlap.

    Attributes:
        shared: int64 (C,), points that have the class in both.
        either: int64 (C,), points that have it in one of them or both.
    """

    shared: np.ndarray
    either: np.ndarray


@dataclass(frozen=True)
class SegmentationAnswer:
    """How a model did on one image.

    Attributes:
        points: How many there are.
        same: How many have the class that the original gives; None without the original.
        beside_original: Overlap with the original's map; None without it.
        beside_labels: Overlap with the dataset's map; None without it.
    """

    points: int
    same: int | None
    beside_original: ClassCounts | None
    beside_labels: ClassCounts | None


class ImageSegmentation(ImageEvaluator[SegmentedImages, SegmentationAnswer]):
    """Scores a segmenter. A folder with the folders `images` and `masks`, or images alone, against the original."""

    task: ClassVar[str] = "image-segmentation"
    axes: ClassVar[dict[str, int]] = {"logits": 3}

    def load(self, spec: DatasetSpec) -> SegmentedImages:
        """Finds images, and their maps where there are any.

        Raises:
            DatasetError: The dataset is flawed, or an image has no map.
        """
        folder = Path(spec.dataset).expanduser()
        if not (spec.is_local and (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()):
            found = open_images(spec, self.task, needs_labels=False)
            return SegmentedImages(found.name, "pixel_agreement", None, found.images, None)
        spec.check_options(self.task)
        spec.check_config()
        images = image_paths(folder / IMAGES)[: spec.max_samples]
        if not images:
            raise dataset_error(str(folder / IMAGES), "holds no image", "put the images into it")
        maps = {path.stem: path for path in image_paths(folder / MASKS)}
        missing = next((path for path in images if path.stem not in maps), None)
        if missing is not None:
            what = f"there is no map of classes for {missing.name}"
            raise dataset_error(str(folder / MASKS), what, f"a map is a PNG of class ids, {missing.stem}.png")
        masks = [str(maps[path.stem]) for path in images]
        return SegmentedImages(str(folder), "mean_iou", "by id", FolderImages(images), masks)

    def needs_original(self, examples: SegmentedImages) -> bool:
        """See `Evaluator.needs_original`: where there are no maps of classes."""
        return examples.masks is None

    def answers(self, features: Sequence[ImageFeature], outputs: Sequence[Outputs]) -> Iterable[SegmentationAnswer]:
        """Compares with the dataset's maps alone."""
        return self.answers_beside(features, outputs, None)

    def answers_beside(
        self,
        features: Sequence[ImageFeature],
        outputs: Sequence[Outputs],
        expected: Sequence[Outputs] | None,
    ) -> Iterable[SegmentationAnswer]:
        """Compares each map with the original's, and with the dataset's where it has one."""
        for index, feature in enumerate(features):
            logits = outputs[index]["logits"]
            count, ours = len(logits), class_map(logits, feature.size)
            same, beside_original, beside_labels = None, None, None
            if expected is not None:
                theirs = ours if expected is outputs else class_map(expected[index]["logits"], feature.size)
                same, beside_original = int((ours == theirs).sum()), count_classes(ours, theirs, count)
            if feature.classes is not None:
                if int(feature.classes.max()) >= count:
                    raise ValidationError(
                        f"a map of classes has the id {feature.classes.max()}, and the model scores {count} classes"
                    )
                beside_labels = count_classes(ours, feature.classes, count)
            yield SegmentationAnswer(ours.size, same, beside_original, beside_labels)

    def score(self, examples: SegmentedImages, answers: Sequence[SegmentationAnswer]) -> Scores:
        """Measures mean IoU with the dataset's maps, and the share of equal points and mean IoU with the original."""
        metrics, resampled = {}, None
        labelled = [answer.beside_labels for answer in answers if answer.beside_labels is not None]
        if labelled:
            counts = _stacked(labelled)
            metrics["mean_iou"] = float(mean_iou(counts.sum(axis=0)))
            resampled = score_of_counts(counts, mean_iou)
        beside = [answer.beside_original for answer in answers if answer.beside_original is not None]
        points = np.array([[answer.same or 0, answer.points] for answer in answers])
        if beside:
            metrics["pixel_agreement"] = float(points[:, 0].sum() / points[:, 1].sum())
            metrics["iou_with_original"] = float(mean_iou(_stacked(beside).sum(axis=0)))
        if resampled is None:
            resampled = score_of_counts(points, lambda sums: sums[0] / sums[1])
        return Scores(metrics, resampled, None, None, {"points": int(points[:, 1].sum())})

    def _feature(self, preprocessor: Any, examples: SegmentedImages, row: int) -> ImageFeature:
        found = super()._feature(preprocessor, examples, row)
        if examples.masks is None:
            return found
        path = examples.masks[row]
        if getattr(preprocessor, "do_center_crop", False):
            what = "the image processor cuts the edges of images off, which maps of whole images have"
            raise dataset_error(examples.name, what, "score images alone, against the original: name their folder")
        image = open_class_map(read_file(Path(path), MAX_BYTES), path)
        if (image.height, image.width) != found.size:
            what = f"{image.height} × {image.width} points, and its image has {found.size[0]} × {found.size[1]}"
            raise dataset_error(path, what, "a map has a class for each point of its image, turned as that is shown")
        reduces = bool(getattr(preprocessor, "do_reduce_labels", False))
        classes = self._classes(np.asarray(image).astype(np.int64), path, reduces)
        return replace(found, classes=classes)

    def _classes(self, ids: np.ndarray, path: str, reduces: bool) -> np.ndarray:
        """The checkpoint's ids, −1 where nothing is scored.

        Args:
            ids: int64 (height, width) as the file has them.
            path: The file.
            reduces: Whether the checkpoint's ids are one less and 0 is no class, as the processor's
                `do_reduce_labels` says (ADE20K).
        """
        declared = getattr(self.config, "semantic_loss_ignore_index", None)
        ignored = IGNORED if declared is None else declared
        classes = np.where(ids == ignored, -1, ids - 1 if reduces else ids)
        if int(classes.max()) >= self.config.num_labels:
            what = f"the class id {ids[np.unravel_index(classes.argmax(), ids.shape)]} occurs, and the checkpoint has "
            what += f"{self.config.num_labels} classes"
            raise dataset_error(path, what, f"ids count from 0, and {ignored} stands for points that are not scored")
        return classes


def class_map(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of each point of an image, as transformers' `post_process_semantic_segmentation` finds it.

    Args:
        logits: float32 (classes, height, width).
        size: Height and width of the map.

    Returns:
        int64 of that size. A few classes are enlarged at a time: of all, there may be gigabytes.
    """
    best = torch.full(size, -torch.inf)
    classes = torch.zeros(size, dtype=torch.int64)
    at_once = max(1, _NUMBERS_AT_ONCE // (size[0] * size[1]))
    for start in range(0, len(logits), at_once):
        part = torch.from_numpy(logits[start : start + at_once])[None]
        enlarged = torch.nn.functional.interpolate(part, size=size, mode="bilinear", align_corners=False)[0]
        values, places = enlarged.max(dim=0)
        is_better = values > best
        best = torch.where(is_better, values, best)
        classes = torch.where(is_better, places + start, classes)
    return classes.numpy()


def count_classes(found: np.ndarray, right: np.ndarray, count: int) -> ClassCounts:
    """Counts how two maps overlap, where `right` is not −1.

    Args:
        found: int64 (height, width), below `count`.
        right: The same.
        count: How many classes there are.
    """
    scored = right >= 0
    ours, theirs = found[scored], right[scored]
    shared = np.bincount(ours[ours == theirs], minlength=count)
    either = np.bincount(ours, minlength=count) + np.bincount(theirs, minlength=count) - shared
    return ClassCounts(shared, either)


def mean_iou(sums: np.ndarray) -> np.ndarray:
    """The mean over classes that occur of points shared over points in either, (…).

    Args:
        sums: (2·C, …), C classes' shared points, then their points in either map.
    """
    shared, either = np.split(sums.astype(np.float64), 2)
    occurs = either > 0
    ratios = np.divide(shared, either, out=np.zeros_like(shared), where=occurs)
    count = occurs.sum(axis=0)
    return np.divide(ratios.sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _stacked(counts: Sequence[ClassCounts]) -> np.ndarray:
    return np.stack([np.concatenate([each.shared, each.either]) for each in counts])
