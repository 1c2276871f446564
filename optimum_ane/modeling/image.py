"""`ANEModelForX` for images: tensors of pixels in, transformers' own output classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.rows import ANERowsModel, check_numbers
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session

_PIXELS = "pixel_values"


class ANEImageModel(ANERowsModel):
    """Base of the model classes of images, which have one size in a package."""

    modality = "image"
    main_input_name = _PIXELS
    input_modalities = ("image",)

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        self._check_inputs(frozenset([_PIXELS]))
        shape = self._session.inputs[_PIXELS].shape
        if len(shape) != 4:
            raise PackageError(f"the program takes {_PIXELS} {shape}; images are (rows, channels, height, width)")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images in pixels."""
        height, width = self._session.inputs[_PIXELS].shape[-2:]
        return height, width

    def forward(
        self,
        pixel_values: Tensor | np.ndarray,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs the package over any number of images.

        Args:
            pixel_values: (N, channels, height, width), floating point, as the image processor of the package gives
                them.
            output_hidden_states: Also give what enters and what leaves each layer, (N, S, C) each, as far as the
                program names them. Core ML gives no values in between, so this needs the portable runtime.
            return_dict: False gives a tuple of the outputs in place of the output class.

        Returns:
            transformers' own output class of the task, float32 on the images' device.

        Raises:
            InputError: The images have another size than the package takes, or hold NaN or infinity.
        """
        values = torch.as_tensor(pixel_values)
        if values.ndim != 4 or tuple(values.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise InputError(
                f"{_PIXELS} has shape {tuple(values.shape)}, and this package takes images of {height} × {width} "
                "pixels, (N, channels, height, width); make them with the image processor of the package, or export "
                "with another --image-size"
            )
        check_numbers(_PIXELS, values)
        return self._answer({_PIXELS: values}, output_hidden_states, return_dict)

    def _extents(self) -> str:
        return f"{self.image_size[0]} × {self.image_size[1]} pixels"


class ANEModelForImageClassification(ANEImageModel):
    """Scores of a whole image."""

    task = "image-classification"


class ANEModelForImageFeatureExtraction(ANEImageModel):
    """Hidden states of a whole image: of patches, (N, S, C), or a map, (N, C, height, width)."""

    task = "feature-extraction"
