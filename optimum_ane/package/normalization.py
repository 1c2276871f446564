"""What an image processor does to the numbers of an image, where a program does it in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optimum_ane.errors import InputError, PackageError

Layout = Literal["RGB", "BGR", "GRAYSCALE"]
"""Core ML's names of the colours of an image of eight bits a channel, in the order of its channels."""

_CHANNELS = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1}
_ROUNDING = 0.5
"""Numbers are rounded to whole ones: by so much any may change, also to one from 0 to 255."""


@dataclass(frozen=True)
class Normalization:
    """The function of one channel's numbers that a program computes: `scale · value + bias`, of 0 to 255.

    Attributes:
        layout: The colours that the program's image has, in the order of its channels.
        scale: Of each channel in that order; 1 / (255 · std) where a processor rescales and normalises.
        bias: Likewise; −mean / std.
    """

    layout: Layout
    scale: tuple[float, ...]
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuses what is no such function.

        Raises:
            PackageError: Numbers for other channels than the layout has, or a scale that loses the image.
        """
        if self.layout not in _CHANNELS:
            raise PackageError(f"the layout is {self.layout!r:.60}, not one of {', '.join(_CHANNELS)}")
        for name, numbers in (("scale", self.scale), ("bias", self.bias)):
            if len(numbers) != _CHANNELS[self.layout] or not all(map(math.isfinite, numbers)):
                raise PackageError(f"{name} of {self.layout} is {numbers!r:.100}, not a number for each channel")
        if not all(self.scale):
            raise PackageError(f"scale is {self.scale!r:.100}; 0 would lose the image")

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Normalises images.

        Args:
            pixels: (N, channels, height, width) in the layout's order, 0 to 255.

        Returns:
            float32 of that shape: what the image processor gives.
        """
        scale, bias = self._columns()
        return np.asarray(pixels * scale + bias, np.float32)

    def invert(self, values: np.ndarray, name: str) -> np.ndarray:
        """Finds the images that were normalised.

        Values that lie between two steps of eight bits, as those of an image that was resized after it was rescaled,
        go to the nearer one: at most half a step, 1/510 of the range from black to white.

        Args:
            values: (N, channels, height, width), float32, finite.
            name: Of the values, for the message.

        Returns:
            uint8 of that shape.

        Raises:
            InputError: A value is of no number from 0 to 255.
        """
        scale, bias = self._columns()
        pixels = (np.asarray(values, np.float64) - bias) / scale
        low, high = (pixels.min(), pixels.max()) if pixels.size else (0.0, 0.0)
        if low < -_ROUNDING or high > 255 + _ROUNDING:
            row = int(np.argmax(np.any((pixels < -_ROUNDING) | (pixels > 255 + _ROUNDING), axis=(1, 2, 3))))
            raise InputError(
                f"{name}, row {row}: the values are of numbers from {low:.2f} to {high:.2f}, and this package takes "
                "images of eight bits a channel, 0 to 255, which it normalises itself. Make the values with the "
                "image processor of the package, or export with --image-input tensor for a package that takes any "
                "numbers"
            )
        return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)

    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias, (channels, 1, 1) each."""
        scale, bias = (np.asarray(numbers, np.float64).reshape(-1, 1, 1) for numbers in (self.scale, self.bias))
        return scale, bias
