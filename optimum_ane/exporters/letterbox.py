"""Detectors whose images keep their proportions: the rest of the size is filled up, and a mask says what is image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.image_normalization import PIXEL_VALUES, picture
from optimum_ane.exporters.image_size import changed
from optimum_ane.exporters.stock_module import StockModule

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.exporters.config import Processor

PIXEL_MASK = "pixel_mask"
_ASKED = ((300, 200), (100, 500))
"""Heights and widths of the images that a processor is asked about."""


class LetterboxedModule(StockModule):
    """An original that gets its images with what is beyond them as zeros, whatever an app has filled it up with.

    Image processors fill up after they have normalised, with zeros, which no colour of an app is normalised to.
    """

    def arguments(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """See `StockModule.arguments`."""
        arguments = super().arguments(values)
        mask = arguments[PIXEL_MASK]
        pixels = arguments[PIXEL_VALUES]
        return {**arguments, PIXEL_VALUES: pixels * mask[:, None].to(pixels.dtype)}


def make_masks(count: int, size: tuple[int, int]) -> Tensor:
    """Masks of rows of examples, (count, height, width) int32: whole, and filled up below, beside, and by most."""
    height, width = size
    extents = ((height, width), (height - height // 3, width), (height, width - width // 3), (height // 2, width))
    masks = torch.zeros((count, height, width), dtype=torch.int32)
    for row in range(count):
        high, wide = extents[row % len(extents)]
        masks[row, :high, :wide] = 1
    return masks


def letterboxing(processor: Processor, size: tuple[int, int], channels: int) -> Processor:
    """A processor that makes an image as large as it fits into a size, fills up the rest, and gives a mask.

    Args:
        processor: The checkpoint's; it is not changed.
        size: Height and width.
        channels: Of the images.

    Raises:
        UnsupportedModelError: It cannot be set to do so, which is found by asking it.
    """
    height, width = size
    extents = {"height": height, "width": width}
    made = changed(
        processor,
        {
            "do_resize": True,
            "size": {"max_height": height, "max_width": width},
            "do_pad": True,
            "pad_size": extents,
        },
    )
    for asked in _ASKED:
        given = _ask(made, np.full((channels, *asked), 255, np.uint8))
        high, wide = (min(extent, round(own * _scale(asked, size))) for own, extent in zip(asked, size, strict=True))
        mask = np.asarray(given.get(PIXEL_MASK, ()))
        if np.shape(given[PIXEL_VALUES])[-2:] != size or mask.shape != (1, *size):
            break
        seen = (int(mask[0].any(1).sum()), int(mask[0].any(0).sum()))
        if max(abs(seen[0] - high), abs(seen[1] - wide)) > 1 or mask[0, : seen[0], : seen[1]].min() != 1:
            break
    else:
        return made
    raise UnsupportedModelError(
        f"{type(processor).__name__} cannot be set to keep the proportions of images within {height} × {width} pixels "
        "and to say what is image; leave out --letterbox"
    )


def _scale(own: tuple[int, int], size: tuple[int, int]) -> float:
    return min(size[0] / own[0], size[1] / own[1])


def _ask(processor: Any, pixels: np.ndarray) -> Any:
    try:
        return processor(picture(pixels), return_tensors="np")
    except Exception as error:  # processors raise whatever an entry sets off
        raise UnsupportedModelError(
            f"{type(processor).__name__} cannot be set to keep the proportions of images ({type(error).__name__}: "
            f"{error}); leave out --letterbox"
        ) from error
