"""What evaluators of images share: images become a model's inputs one at a time, and nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.evaluator import Evaluator
from optimum_ane.evaluation.features import Encoded, Feature
from optimum_ane.evaluation.image_files import ImageExamples
from optimum_ane.evaluation.model_answers import A

_PIXELS = "pixel_values"


@dataclass(frozen=True)
class ImageFeature(Feature):
    """One image as a model takes it.

    Attributes:
        size: Height and width of the image itself, in pixels, before the processor has resized it.
        classes: int64 of that size, what is right at each point, −1 where nothing is scored; None where the dataset
            has no such maps.
    """

    size: tuple[int, int] = (0, 0)
    classes: np.ndarray | None = None


I = TypeVar("I", bound=ImageExamples)  # noqa: E741 - the letter of images


class ImageEvaluator(Evaluator[I, ImageFeature, A]):
    """Scores a model of images."""

    unit: ClassVar[str] = "images"
    has_tokens: ClassVar[bool] = False

    def encode(
        self, preprocessor: Any, examples: I, rows: Sequence[int], sequence_length: int
    ) -> Encoded[ImageFeature]:
        """Makes one feature an image.

        Raises:
            DatasetError: An image is damaged, or the processor cannot take it.
        """
        return Encoded([self._feature(preprocessor, examples, row) for row in rows])

    def collate(
        self, preprocessor: Any, features: Sequence[ImageFeature], length: int | None = None
    ) -> dict[str, Tensor]:
        """Stacks images, which the processor has made one size.

        Raises:
            DatasetError: They have several.
        """
        pixels = [feature.inputs[_PIXELS] for feature in features]
        if any(each.shape != pixels[0].shape for each in pixels):
            shapes = " and ".join(map(str, sorted({tuple(each.shape) for each in pixels})[:2]))
            raise DatasetError(
                f"the image processor makes images of several sizes, {shapes}; it has to resize to the size of the "
                "package: export again with --image-size"
            )
        return {_PIXELS: torch.stack(pixels)}

    def _feature(self, preprocessor: Any, examples: I, row: int) -> ImageFeature:
        image = examples.images.open(row)
        try:
            pixels = preprocessor(image, return_tensors="pt")[_PIXELS][0]
        except Exception as error:  # processors raise whatever an image of odd extents sets off
            raise DatasetError(
                f"{examples.name}, image {row + 1}: the image processor cannot take it ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); remove the image"
            ) from error
        return ImageFeature({_PIXELS: pixels}, row, size=(image.height, image.width))
