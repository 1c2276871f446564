"""`ANEModelForX` for images: tensors of pixels in, transformers' own output classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.rows import ANERowsModel, check_numbers
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.normalization import Normalization
from optimum_ane.runtimes import Session

_PIXELS, _MASK = "pixel_values", "pixel_mask"


class ANEImageModel(ANERowsModel):
    """Base of the model classes of images, which have one size in a package."""

    modality = "image"
    main_input_name = _PIXELS
    input_modalities = ("image",)
    _known_inputs: ClassVar[frozenset[str]] = frozenset([_PIXELS])

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        self._check_inputs(self._known_inputs)
        if _PIXELS not in self._session.inputs:
            raise PackageError(f"function {self._session.function_name} takes no {_PIXELS}")
        shape = self._session.inputs[_PIXELS].shape
        if len(shape) != 4:
            raise PackageError(f"the program takes {_PIXELS} {shape}; images are (rows, channels, height, width)")
        stated, declared = self._layout, self._session.inputs[_PIXELS].image
        if stated != declared:
            raise PackageError(
                f"{ANE_CONFIG} says that the program takes {stated or 'tensors'}, and it takes "
                f"{declared or 'tensors'}; export or download the package again"
            )

    @property
    def _normalization(self) -> Normalization | None:
        """What the program does to images itself; None where it takes tensors."""
        return None if self.manifest.image is None else self.manifest.image.normalization

    @property
    def _layout(self) -> str:
        return "" if self._normalization is None else self._normalization.layout

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

        A package whose program takes images and normalises them gets the images back that the values were made of:
        of eight bits a channel, one at a time. Values that no image of eight bits gives, such as those of a processor
        that resizes after it has rescaled, are rounded to the nearest that one does: by half of 1/255 of the range
        from black to white at most, which is noise 59 dB below that range. Export
        with `--image-input tensor` where that is too much.

        Args:
            pixel_values: (N, channels, height, width), floating point, as the image processor of the package gives
                them.
            output_hidden_states: Also give what enters and what leaves each layer, (N, S, C) each, as far as the
                program names them. Core ML gives no values in between, so this needs the portable runtime.
            return_dict: False gives a tuple of the outputs in place of the output class.

        Returns:
            transformers' own output class of the task, float32 on the images' device.

        Raises:
            InputError: The images have another size than the package takes, hold NaN or infinity, or values that no
                image gives where the program normalises.
        """
        return self._answer({_PIXELS: self._pixels(pixel_values)}, output_hidden_states, return_dict)

    def _pixels(self, pixel_values: Tensor | np.ndarray) -> Tensor:
        """Images as the program takes them, after a look at their size and their numbers."""
        values = torch.as_tensor(pixel_values)
        if values.ndim != 4 or tuple(values.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise InputError(
                f"{_PIXELS} has shape {tuple(values.shape)}, and this package takes images of {height} × {width} "
                "pixels, (N, channels, height, width); make them with the image processor of the package, or export "
                "with another --image-size"
            )
        check_numbers(_PIXELS, values)
        return self._as_taken(values)

    def _as_taken(self, values: Tensor) -> Tensor:
        """What the program takes for normalised values, (N, channels, height, width), on their device."""
        normalization = self._normalization
        channels = self._session.inputs[_PIXELS].shape[1]
        if normalization is None or values.shape[1] != channels:  # what is refused where it is given to the program
            return values
        pixels = normalization.invert(values.detach().cpu().float().numpy(), _PIXELS)
        return torch.from_numpy(pixels).to(values.device)

    def _extents(self) -> str:
        return f"{self.image_size[0]} × {self.image_size[1]} pixels"


class ANEModelForImageClassification(ANEImageModel):
    """Scores of a whole image."""

    task = "image-classification"


class ANEModelForObjectDetection(ANEImageModel):
    """Boxes and their labels: `logits` (N, queries, classes) and `pred_boxes` (N, queries, 4).

    A box is centre, width and height as parts of the image's width and height, as transformers has them;
    `post_process_object_detection` of the image processor makes corners in pixels of them.
    """

    task = "object-detection"
    _known_inputs = frozenset([_PIXELS, _MASK])

    def forward(
        self,
        pixel_values: Tensor | np.ndarray,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pixel_mask: Tensor | np.ndarray | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs the package over any number of images.

        Args:
            pixel_values: See `ANEImageModel.forward`.
            output_hidden_states: See `ANEImageModel.forward`.
            return_dict: See `ANEImageModel.forward`.
            pixel_mask: (N, height, width), 1 for a point of an image and 0 for what is filled up; None stands for
                ones. Only packages that were exported with `--letterbox` tell the two apart.

        Raises:
            InputError: See `ANEImageModel.forward`; or the mask marks padding that the package cannot tell from an
                image, or has another shape than the images.
        """
        if _MASK in self._session.inputs:
            pixels = self._pixels(pixel_values)
            mask = self._mask(pixel_mask, pixels)
            return self._answer({_PIXELS: pixels, _MASK: mask}, output_hidden_states, return_dict)
        if pixel_mask is not None and not bool(torch.as_tensor(pixel_mask).bool().all()):
            raise InputError(
                "pixel_mask marks padding, which this package does not tell from the image; make the inputs with the "
                "image processor of the package, which resizes to the exported height and width without padding, or "
                "export with --letterbox"
            )
        return super().forward(pixel_values, output_hidden_states, return_dict)

    def _mask(self, pixel_mask: Tensor | np.ndarray | None, pixels: Tensor) -> Tensor:
        shape = (len(pixels), *self.image_size)
        if pixel_mask is None:
            return torch.ones(shape, dtype=torch.int32)
        mask = torch.as_tensor(pixel_mask)
        if tuple(mask.shape) != shape:
            raise InputError(f"{_MASK} has shape {tuple(mask.shape)}; images {tuple(pixels.shape)} need {shape}")
        if not ((mask == 0) | (mask == 1)).all():
            raise InputError(f"{_MASK} holds other numbers than 0 and 1")
        return mask.to(torch.int32)


class ANEModelForSemanticSegmentation(ANEImageModel):
    """A class for each point: `logits` (N, classes, height, width), smaller than the image where the model's are.

    `post_process_semantic_segmentation` of the image processor enlarges them and takes the best.
    """

    task = "image-segmentation"


class ANEModelForDepthEstimation(ANEImageModel):
    """A distance for each point: `predicted_depth` (N, height, width), in the units of the checkpoint."""

    task = "depth-estimation"


class ANEModelForImageFeatureExtraction(ANEImageModel):
    """Hidden states of a whole image: of patches, (N, S, C), or a map, (N, C, height, width)."""

    task = "feature-extraction"
