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
    model_input_names: ClassVar[tuple[str, ...]] = (_PIXELS,)
    """What models take of what an image processor gives."""

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
        shapes = sorted({tuple(feature.inputs[_PIXELS].shape) for feature in features})
        if len(shapes) > 1:
            raise DatasetError(
                f"the image processor makes images of several sizes, {shapes[0]} and {shapes[1]}; it has to resize to "
                "the size of the package: export again with --image-size"
            )
        return {name: torch.stack([feature.inputs[name] for feature in features]) for name in features[0].inputs}

    def _feature(self, preprocessor: Any, examples: I, row: int) -> ImageFeature:
        image = examples.images.open(row)
        try:
            given = preprocessor(image, return_tensors="pt")
            inputs = {name: given[name][0] for name in self.model_input_names if name in given or name == _PIXELS}
        except Exception as error:  # processors raise whatever an image of odd extents sets off
            raise DatasetError(
                f"{examples.name}, image {row + 1}: the image processor cannot take it ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); remove the image"
            ) from error
        return ImageFeature(inputs, row, size=(image.height, image.width))
