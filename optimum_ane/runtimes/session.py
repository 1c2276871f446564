"""The one interface through which everything else runs a program, whichever engine executes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

HIDDEN_STATE = "hidden_state_"
"""Names of hidden states begin so: `hidden_state_0` enters the first layer. In a float16 program more may follow."""


@dataclass(frozen=True)
class TensorSpec:
    """A function's input, output or state, as the program declares it.

    Attributes:
        name: The feature's name.
        shape: Its extents; the default ones where the package accepts several. Empty where the package does not say.
        dtype: numpy's name of the element type (`"int32"`, `"float16"`, `"float32"`), or `"string"` and
            `"dictionary"` for the two outputs of a classifier.
        image: The colour layout of an image, as `coremltools.colorlayout` names it (`"RGB"`, `"BGR"`, `"GRAYSCALE"`,
            `"GRAYSCALE_FLOAT16"`); empty for everything else. An input takes a `PIL.Image` of mode RGB, L or F, or an
            array of this shape, (1, channels, height, width), channels in the layout's order. An output is a
            `PIL.Image` of mode RGBA, L or F.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    image: str = ""


class State(Protocol):
    """What a program with states keeps between predictions. Two of them share nothing.

    It is valid in every function and program that declares the same names, shapes and types.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The states."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Returns a copy of a state's value, of its declared shape and type."""
        ...

    def write(self, name: str, value: np.ndarray) -> None:
        """Replaces a state's value.

        Raises:
            InputError: The shape or the type does not fit.
        """
        ...

    def copy(self) -> State:
        """Returns a state of the same values that shares nothing with this one."""
        ...


class Session(Protocol):
    """One function of a loaded program, ready to predict."""

    runtime: str
    """`"coreml"`, `"portable"` or `"torch"`: which engine answers. Reports print it beside every number."""
    function_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    states: Mapping[str, TensorSpec]

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the program's functions, sorted."""
        ...

    def function(self, name: str) -> Session:
        """Returns the session of another function, over the same weights.

        Raises:
            PackageError: There is none of the name.
        """
        ...

    def with_rows(self, rows: int) -> Session:
        """Returns the same function for more rows at once, where the engine can and gains by it; else the session.

        Args:
            rows: How many there are to run.

        Returns:
            A session whose inputs and outputs declare at most so many rows on axis 0, or those of the program.
        """
        ...

    def make_state(self) -> Any:
        """Returns a new `State`, all zeros."""
        ...

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Runs the function once.

        Args:
            inputs: One array for each of `self.inputs`, of the declared shape.
            state: From `make_state` of any function that declares the same states, where there are states; it holds
                their new values afterwards.
            intermediates: Names, or patterns of them, of values in between that are returned beside the outputs. Of a
                module in PyTorch these are the hidden states that it declares; Core ML gives none.

        Returns:
            One value for each of `self.outputs`; arrays, but for the outputs of a classifier.

        Raises:
            InputError: A name, dtype or shape does not match the declaration, or a value in between is not there.
        """
        ...
