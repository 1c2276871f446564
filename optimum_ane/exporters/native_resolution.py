"""SigLIP 2's models of native resolution (NaFlex), whose images come as patches of any number, at one size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from transformers import SiglipImageProcessor

    from optimum_ane.exporters.config import Processor

_MODEL_TYPE = "siglip2"


def takes_patches(config: PretrainedConfig) -> bool:
    """Whether the images of a checkpoint come as patches; those of a fixed size, SigLIP 2's too, are `siglip`."""
    return config.model_type == _MODEL_TYPE


def usual_size(config: PretrainedConfig) -> tuple[int, int]:
    """Height and width of the square that has as many patches as the checkpoint was trained with."""
    vision = config.vision_config
    side = math.isqrt(vision.num_patches) * vision.patch_size
    return side, side


def processor_of_images(processor: Processor, config: PretrainedConfig) -> SiglipImageProcessor:
    """An image processor that stretches images to one size and leaves them whole, and normalises as the given one."""
    # Where torchvision is missing, transformers warns as soon as the name is imported.
    from transformers import SiglipImageProcessor

    height, width = usual_size(config)
    names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb")
    given = {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}
    return SiglipImageProcessor(size={"height": height, "width": width}, **given)


class OfWholeImages(nn.Module):
    """A model of patches that takes images, (B, channels, height, width), multiples of the patch size.

    A forward, which packages are compared with, cuts patches by reshaping, as SigLIP 2's image processor does; a
    program's encoder cuts them by a convolution, since reshaping needs more axes than the engine takes.

    Args:
        model: `Siglip2Model`, or one of its kind; it is neither copied nor changed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self.patch_size = int(self.config.vision_config.patch_size)

    def forward(self, pixel_values: Tensor | None = None, **inputs: Any) -> Any:
        """Calls the model; see its own `forward`."""
        if pixel_values is None:
            return self.model(**inputs)
        rows, channels, height, width = pixel_values.shape
        size = self.patch_size
        cut = pixel_values.reshape(rows, channels, height // size, size, width // size, size)
        patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(rows, -1, size * size * channels)
        return self.model(**inputs, **self._arguments(pixel_values, patches))

    def get_text_features(self, **inputs: Tensor) -> Any:
        """See `Siglip2Model`."""
        return self.model.get_text_features(**inputs)

    def get_image_features(self, pixel_values: Tensor) -> Any:
        """See `Siglip2Model`; takes images."""
        size, channels = self.patch_size, pixel_values.shape[1]
        # In the order of the image processor: rows, columns, channels.
        kernel = torch.eye(size * size * channels).reshape(-1, size, size, channels).permute(0, 3, 1, 2)
        patches = nn.functional.conv2d(pixel_values, kernel, stride=size).flatten(2).transpose(1, 2)
        return self.model.get_image_features(**self._arguments(pixel_values, patches))

    def _arguments(self, images: Tensor, patches: Tensor) -> dict[str, Tensor]:
        rows, height, width = images.shape[0], images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones((rows, height * width), dtype=torch.int32),
            "spatial_shapes": torch.tensor([[height, width]] * rows),
        }
