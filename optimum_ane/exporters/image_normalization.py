"""What an image processor does to the numbers of an image, found out by asking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.package.normalization import Layout, Normalization

if TYPE_CHECKING:
    from optimum_ane.exporters.config import Processor

PIXEL_VALUES = "pixel_values"
_SHAPING = (
    "do_resize",
    "do_center_crop",
    "do_pad",
    "do_thumbnail",
    "do_align_long_axis",
    "do_crop_margin",
    "do_image_splitting",
)
"""What decides about the size of an image, which apps do before a program sees it."""
_TOLERANCE = 1e-4
"""How far a value may be from the function, in steps of eight bits: what float32 leaves of it."""
_IMAGES = 2


def ask_normalization(processor: Processor | None, size: tuple[int, int], channels: int) -> Normalization:
    """Finds the function of each channel that a processor computes, and proves that it does nothing else.

    Its entries are not read, for what they mean differs from one processor to the next: it is given a black image, a
    white one, and others that hold every number of eight bits at random places, all of the exported size and without
    anything that would change it.

    Args:
        processor: The checkpoint's.
        size: Height and width of the program's images.
        channels: Of the program's input.

    Returns:
        The function, and the order of its channels.

    Raises:
        UnsupportedModelError: There is no processor, it cannot be run, or its values are no function of the number at
            the same place of one channel, scaled and shifted.
    """
    if processor is None:
        raise UnsupportedModelError("there is no image processor, which would say how images are normalised")
    if channels not in (1, 3):
        raise UnsupportedModelError(f"the model takes {channels} channels, and an image of Core ML's has 1 or 3")
    name = type(processor).__name__
    generator = np.random.default_rng(0)
    black = np.zeros((channels, *size), np.uint8)
    others = [_noise(generator, channels, size) for _ in range(_IMAGES)]
    values = [_ask(processor, pixels) for pixels in (black, np.full_like(black, 255), *others)]
    low, high = (each.reshape(channels, -1)[:, 0].astype(np.float64) for each in values[:2])
    scale, bias = (high - low) / 255, low
    if not (np.isfinite(scale).all() and scale.all()):
        raise UnsupportedModelError(f"{name} gives the same values for a black image and for a white one")
    layouts: tuple[Layout, ...] = ("GRAYSCALE",) if channels == 1 else ("RGB", "BGR")
    for layout in layouts:
        found = Normalization(layout, tuple(scale.tolist()), tuple(bias.tolist()))
        images = [pixels[::-1] if layout == "BGR" else pixels for pixels in (black, black + 255, *others)]
        if all(
            _distance(found, pixels, given, scale) <= _TOLERANCE for pixels, given in zip(images, values, strict=True)
        ):
            return found
    raise UnsupportedModelError(f"{name} does more to the numbers of an image than scale and shift each channel")


def _noise(generator: np.random.Generator, channels: int, size: tuple[int, int]) -> np.ndarray:
    """An image that holds every number of eight bits in each channel, as far as it has room for them."""
    levels = np.resize(generator.permutation(256).astype(np.uint8), size[0] * size[1])
    return np.stack([generator.permutation(levels).reshape(size) for _ in range(channels)])


def _distance(found: Normalization, pixels: np.ndarray, values: np.ndarray, scale: np.ndarray) -> float:
    """The largest difference, in steps of eight bits."""
    difference = np.abs(found.apply(pixels[None])[0].astype(np.float64) - values)
    return float((difference / np.abs(scale).reshape(-1, 1, 1)).max())


def _ask(processor: Processor, pixels: np.ndarray) -> np.ndarray:
    """What a processor makes of one image of the exported size, (channels, height, width)."""
    name = type(processor).__name__
    channels = pixels.shape[0]
    options: dict[str, Any] = {flag: False for flag in _SHAPING if hasattr(processor, flag)}
    try:
        given = processor(picture(pixels), return_tensors="np", **options)[PIXEL_VALUES]
    except Exception as error:  # processors raise whatever an image sets off
        raise UnsupportedModelError(
            f"{name} cannot be run on an image of {pixels.shape[1]} × {pixels.shape[2]} pixels and {channels} "
            f"channels as it is ({type(error).__name__}: {error})"
        ) from error
    values = np.asarray(given)
    if values.shape != (1, *pixels.shape):
        raise UnsupportedModelError(
            f"{name} makes values of the shape {values.shape} of an image of {pixels.shape[1]} × {pixels.shape[2]} "
            f"pixels and {channels} channels, even where it is to leave its size alone"
        )
    return values[0]


def picture(pixels: np.ndarray) -> Any:
    """PIL's image of numbers (channels, height, width), uint8: grey of one channel, RGB of three, else the numbers."""
    from PIL import Image

    if len(pixels) not in (1, 3):
        return pixels
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
