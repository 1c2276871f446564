"""The one interface through which the rest of the house runs a package, whichever engine executes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output, as the package declares it.

    Attributes:
        name: The feature's name.
        shape: Its extents; the default ones where the package accepts several. Empty where the package does not say.
        dtype: numpy's name of the element type (`"int32"`, `"float16"`, `"float32"`), or `"string"` and
            `"dictionary"` for the two outputs of a classifier.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(Protocol):
    """A loaded package, ready to predict."""

    runtime: str
    """`"coreml"` or `"portable"`: which engine answers. Reports print it beside every number."""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the package once.

        Args:
            inputs: One array for each of `self.inputs`, of the declared shape.

        Returns:
            One value for each of `self.outputs`; arrays, but for the outputs of a classifier.

        Raises:
            InputError: A name, dtype or shape does not match the package's declaration.
        """
        ...
