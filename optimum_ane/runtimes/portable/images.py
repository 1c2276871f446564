"""Images as inputs and outputs: between PIL's and the tensors that a program takes and gives.

A program knows no images. What its description calls one is a tensor of (1, channels, height, width) in it, whose
numbers go from 0 to 255 (of the layout in fp16: any). Core ML takes and gives `PIL.Image` through coremltools, and
sorts the channels; scale and bias of `coremltools.ImageType` are operations of the program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from optimum_ane.errors import InputError, RuntimeUnavailableError
from optimum_ane.runtimes.session import TensorSpec

# The numbers of `ImageFeatureType.ColorSpace` in FeatureTypes.proto.
LAYOUTS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
# PIL's mode of an image that Core ML takes for each layout; see `MLModel._verify_pil_image_modes`.
_MODES = {"GRAYSCALE": "L", "RGB": "RGB", "BGR": "RGB", "GRAYSCALE_FLOAT16": "F"}


def channels(layout: str) -> int:
    """Returns how many channels the tensor of an image has."""
    return 3 if layout in ("RGB", "BGR") else 1


def is_picture(value: Any) -> bool:
    """Tells whether a value is one of PIL's images, without importing PIL: whoever made one has."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def picture_shape(picture: Any, spec: TensorSpec) -> tuple[int, ...]:
    """Returns the shape of the tensor that stands for a picture, without reading it.

    Raises:
        InputError: The picture is not in the mode that Core ML takes.
    """
    mode = _MODES[spec.image]
    if picture.mode != mode:
        raise InputError(
            f"input {spec.name!r} is an image of the layout {spec.image} and takes PIL images of mode {mode!r}; "
            f"this one has mode {picture.mode!r}: picture.convert({mode!r}) changes it"
        )
    width, height = picture.size
    return 1, channels(spec.image), height, width


def pixels(picture: Any, layout: str) -> np.ndarray:
    """Returns a picture's numbers, (1, channels, height, width), uint8 or float32, channels in the layout's order."""
    array = np.asarray(picture)
    if layout in ("RGB", "BGR"):
        array = array.transpose(2, 0, 1)
        array = array[::-1] if layout == "BGR" else array
        return array[None]
    return array[None, None]


def check_pixels(array: np.ndarray, spec: TensorSpec) -> None:
    """Checks the numbers of an array that stands for an image.

    Raises:
        InputError: They are no numbers, or none that eight bits hold.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"input {spec.name!r} is an image and got an array of {array.dtype.name}")
    if spec.image == "GRAYSCALE_FLOAT16" or not array.size:
        return
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255 and (array.dtype.kind != "f" or (array == np.trunc(array)).all())):
        raise InputError(
            f"input {spec.name!r} is an image of eight bits a channel: whole numbers from 0 to 255; "
            f"given were numbers from {low} to {high}"
        )


def picture(array: np.ndarray, layout: str) -> Any:
    """Makes PIL's image of a tensor (1, channels, height, width).

    Colours come as `RGBA` with an opaque alpha, grey as `L`, grey in fp16 as `F`, as through coremltools. Numbers are
    bounded to [0, 255] and rounded to the nearest, halves up; Apple says nowhere how Core ML rounds.

    Args:
        array: The tensor, of floats or uint8.
        layout: Its colour layout.

    Raises:
        ValueError: The tensor is of another shape.
        RuntimeUnavailableError: There is no PIL.
    """
    if array.ndim != 4 or array.shape[:2] != (1, channels(layout)):
        raise ValueError(f"an image of the layout {layout} of shape {array.shape}")
    image = _pil()
    if layout == "GRAYSCALE_FLOAT16":
        with np.errstate(over="ignore"):
            return image.fromarray(array[0, 0].astype(np.float16).astype(np.float32))
    eight = np.floor(np.clip(np.nan_to_num(array[0].astype(np.float32)), 0, 255) + 0.5).astype(np.uint8)
    if layout == "GRAYSCALE":
        return image.fromarray(eight[0])
    eight = eight[::-1] if layout == "BGR" else eight
    opaque = np.full((1, *eight.shape[1:]), 255, np.uint8)
    return image.fromarray(np.ascontiguousarray(np.concatenate([eight, opaque]).transpose(1, 2, 0)))


def input_picture(array: np.ndarray, layout: str) -> Any:
    """Makes PIL's image of a checked input tensor, in the mode that Core ML takes; the inverse of `pixels`.

    Raises:
        RuntimeUnavailableError: There is no PIL.
    """
    return picture(array, layout).convert(_MODES[layout])


def size_limits(
    feature: Any,
) -> tuple[Sequence[tuple[int, int]], tuple[tuple[int, int], tuple[int, int]] | None]:
    """Reads which sizes an `ImageFeatureType` accepts besides its default.

    Returns:
        The (height, width) that it enumerates; and the least and greatest height and width (-1: no limit), or None.
    """
    flexible = feature.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        return [(size.height, size.width) for size in feature.enumeratedSizes.sizes], None
    if flexible == "imageSizeRange":
        height, width = feature.imageSizeRange.heightRange, feature.imageSizeRange.widthRange
        return [], ((height.lowerBound, height.upperBound), (width.lowerBound, width.upperBound))
    return [], None


def _pil() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise RuntimeUnavailableError(
            "Core ML's images are PIL's, which is not installed: pip install pillow"
        ) from error
    return Image
