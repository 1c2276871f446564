"""The export configuration of every image model of transformers that goes by its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.stock_rows import StockRowsANEConfig
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

PIXEL_VALUES = "pixel_values"
_ASKED = ((360, 480), (640, 400))
"""Heights and widths of the images that a processor is asked about."""


class StockImageANEConfig(StockRowsANEConfig):
    """Images as tensors, `pixel_values` of (B, channels, height, width), as the image processor gives them."""

    MODALITY: ClassVar[Modality] = "image"

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `StockANEConfig.input_names`."""
        return (PIXEL_VALUES,)

    @property
    def channels(self) -> int:
        """Of the images; 3 where the configuration does not say."""
        return _of_vision(self._config, "num_channels") or 3

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: the size is the processor's, or else the configuration's."""
        form = super().complete(form, processor)
        if form.image_size is not None:
            return form
        size = _size_of(processor) or _as_size(_of_vision(self._config, "image_size"))
        if size is None:
            raise UnsupportedModelError(
                f"neither an image processor nor the configuration of {self._config.model_type} says how large images "
                "are; give --image-size"
            )
        return replace(form, image_size=size)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if PIXEL_VALUES not in self.forward_arguments():
            raise UnsupportedModelError(
                f"the forward of {self._config.model_type} for {self.task} takes no {PIXEL_VALUES}: it is no model of "
                "images alone"
            )

    def input_shapes(self, form: ExportForm) -> dict[str, tuple[int, ...]]:
        """See `StockRowsANEConfig.input_shapes`."""
        assert form.image_size is not None
        return {PIXEL_VALUES: (self.channels, *form.image_size)}

    def make_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """See `StockRowsANEConfig.make_rows`.

        In turn noise, a ramp from corner to corner, noise of coarse patches, and one grey throughout, the edge of what
        an image can be; −1 to 1 where processors normalise to about that, with other strengths in each channel.
        """
        channels, height, width = shapes[PIXEL_VALUES]
        generator = torch.Generator().manual_seed(seed)
        rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None, :]
        images = []
        for index in range(count):
            strength = torch.rand((channels, 1, 1), generator=generator) + 0.5
            coarse = torch.randn((1, channels, 4, 4), generator=generator)
            kinds = (
                torch.randn((channels, height, width), generator=generator),
                ((rows + columns) / 2).expand(channels, height, width),
                torch.nn.functional.interpolate(coarse, (height, width))[0],
                torch.full((channels, height, width), 1.0 - 2.0 * (index // 4 % 2)),
            )
            images.append(kinds[index % len(kinds)] * strength)
        return {PIXEL_VALUES: torch.stack(images)}


def _of_vision(config: Any, name: str) -> Any:
    """An entry of a configuration, or of its part about images."""
    value = getattr(config, name, None)
    return value if value is not None else getattr(getattr(config, "vision_config", None), name, None)


def _size_of(processor: Any) -> tuple[int, int] | None:
    """Height and width of what an image processor makes of images; None where these depend on the image.

    It is asked, on two images of other proportions: what its entries mean differs from one to the next.
    """
    if processor is None:
        return None
    sizes = set()
    for height, width in _ASKED:
        try:
            pixels = processor(np.zeros((height, width, 3), np.uint8), return_tensors="np")[PIXEL_VALUES]
        except Exception as error:  # processors raise whatever an entry sets off
            raise UnsupportedModelError(
                f"{type(processor).__name__} cannot be run on an image of {height} × {width} pixels "
                f"({type(error).__name__}: {error}); give --image-size, or mend preprocessor_config.json"
            ) from error
        sizes.add(tuple(np.shape(pixels)[-2:]))
    return sizes.pop() if len(sizes) == 1 else None


def _as_size(value: Any) -> tuple[int, int] | None:
    """Height and width, in whichever form configurations write them."""
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2:
        return (int(value[0]), int(value[1]))
    return None
