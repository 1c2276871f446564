"""Depth estimation: how far a package's depths are from the original's, relative to these.

Over the points of the network's output, the absolute relative error |d − d*| / d* and the share of points with
max(d / d*, d* / d) < 1.25, d* the original's (Eigen et al. 2014, https://arxiv.org/abs/1406.2283).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.bootstrap import ratio, score_of_counts
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.image_evaluator import ImageEvaluator, ImageFeature
from optimum_ane.evaluation.image_files import ImageExamples, open_images
from optimum_ane.evaluation.model_answers import Outputs

LARGEST_RATIO = 1.25

LEAST_DEPTH = 1e-3
"""Points count where the original's depth is this part of the image's largest or more: relative depths end at 0."""


class DepthEstimation(ImageEvaluator[ImageExamples, np.ndarray]):
    """Scores depths against the original's. A folder of images, or a column of them; labels are not read."""

    task: ClassVar[str] = "depth-estimation"
    outputs: ClassVar[str] = "depths"
    axes: ClassVar[dict[str, int]] = {"predicted_depth": 2}

    def load(self, spec: DatasetSpec) -> ImageExamples:
        """Finds images."""
        found = open_images(spec, self.task, needs_labels=False)
        return ImageExamples(found.name, "within_1.25", None, found.images)

    def needs_original(self, examples: ImageExamples) -> bool:
        """See `Evaluator.needs_original`: always."""
        return True

    def answers(self, features: Sequence[ImageFeature], outputs: Sequence[Outputs]) -> Iterable[np.ndarray]:
        """Of the original: no difference."""
        return self.answers_beside(features, outputs, outputs)

    def answers_beside(
        self, features: Sequence[ImageFeature], outputs: Sequence[Outputs], expected: Sequence[Outputs] | None
    ) -> Iterable[np.ndarray]:
        """Sums up each image: see `compare_depths`."""
        assert expected is not None
        for ours, theirs in zip(outputs, expected, strict=True):
            yield compare_depths(theirs["predicted_depth"], ours["predicted_depth"])

    def score(self, examples: ImageExamples, answers: Sequence[np.ndarray]) -> Scores:
        """Measures the share of close points, and the mean of the absolute relative error over all points that count.

        Raises:
            DatasetError: The original sees no depth above 0.
        """
        sums = np.stack(answers)
        errors, close, points = sums.sum(axis=0)
        if points == 0:
            raise DatasetError(f"{examples.name}: the original sees no depth above 0 in any image; take other images")
        metrics = {"within_1.25": float(close / points), "depth_error": float(errors / points)}
        resampled = score_of_counts(sums[:, 1:], lambda drawn: ratio(drawn[0], drawn[1], np.nan))
        return Scores(metrics, resampled, None, None, {"points": int(points)})


def compare_depths(original: np.ndarray, package: np.ndarray) -> np.ndarray:
    """Sums up the points of one image that count.

    Args:
        original: (height, width), finite.
        package: The same of the package.

    Returns:
        float64 (3,): the sum of absolute relative errors, how many points are close, and how many count.
    """
    counts = (original > 0) & (original >= LEAST_DEPTH * original.max(initial=0.0))
    theirs, ours = original[counts].astype(np.float64), package[counts].astype(np.float64)
    with np.errstate(divide="ignore"):
        is_close = (ours > 0) & (np.maximum(ours / theirs, theirs / ours) < LARGEST_RATIO)
    return np.array([(np.abs(ours - theirs) / theirs).sum(), is_close.sum(), len(theirs)])
