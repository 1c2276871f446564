"""A program in the making: MIL operations, and beside each its meaning in numpy.

A move looks for operands that suit it among the values made so far, adds an operation and its meaning, and returns
False where nothing suits. Nothing in this package uses torch or the runtime under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from coremltools.converters.mil import Builder

MAX_RANK = 5
_LARGEST = 24.0
T = TypeVar("T")


@dataclass
class Step:
    """One operation.

    Attributes:
        text: What it is, for messages.
        emit: Builds it from MIL variables.
        meaning: Computes it from numpy arrays (float64, int64, bool).
        operands: The places of its operands among the values.
    """

    text: str
    emit: Callable[..., Any]
    meaning: Callable[..., np.ndarray]
    operands: tuple[int, ...]


class Maker:
    """Makes one program, with every value of it as it is exactly and as it is with each result rounded.

    Values stay small and away from the steps of discontinuous operations, so that the error of a right answer stays
    far below that of a wrong one.

    Attributes:
        rng: Decides everything.
        dtype: The program's floating-point type, float16 or float32.
        is_late: Whether the program may use what came with iOS 17.
        inputs: The inputs, of that type or int32.
        steps: The operations.
        exact: The value of each input and operation in float64, int64 or bool.
        rounded: The same, each floating-point result rounded to `dtype`.
    """

    def __init__(self, rng: np.random.Generator, dtype: type[np.floating], is_late: bool) -> None:
        self.rng = rng
        self.dtype = dtype
        self.is_late = is_late
        self.name = "fp16" if dtype is np.float16 else "fp32"
        self.margin = 0.02 if dtype is np.float16 else 1e-3
        self.steps: list[Step] = []
        self.inputs = [self.constant(self._any_shape()) for _ in range(self.integer(1, 4))]
        if self.chance(0.4):
            self.inputs.append(self.constant(self._any_shape(), "i"))
        self.exact = [a.astype(np.int64 if a.dtype.kind == "i" else np.float64) for a in self.inputs]
        self.rounded = list(self.exact)

    def add(self, text: str, emit: Callable[..., Any], meaning: Callable[..., np.ndarray], *operands: int) -> bool:
        """Adds an operation; see `Step`. A result that grew large is scaled down by another one."""
        self.add_index(text, emit, meaning, *operands)
        return True

    def add_index(
        self, text: str, emit: Callable[..., Any], meaning: Callable[..., np.ndarray], *operands: int
    ) -> int:
        """Does what `add` does and returns the value's place."""
        exact = np.asarray(meaning(*(self.exact[i] for i in operands)))
        rounded = np.asarray(meaning(*(self.rounded[i] for i in operands)))
        if exact.dtype.kind == "f":
            rounded = rounded.astype(self.dtype).astype(np.float64)
        self.steps.append(Step(text, emit, meaning, operands))
        self.exact.append(exact)
        self.rounded.append(rounded)
        place = len(self.exact) - 1
        largest = float(np.abs(exact).max()) if exact.size and exact.dtype.kind != "b" else 0.0
        if not np.isfinite(largest):
            raise AssertionError(f"the meaning of {text} is not finite")
        if largest <= _LARGEST:
            return place
        if exact.dtype.kind == "i":
            seven = np.int32(7)
            return self.add_index("mod 7", lambda a: Builder.mod(x=a, y=seven), lambda a: np.mod(a, 7), place)
        factor = self.dtype(2.0 ** -np.ceil(np.log2(largest / 4)))  # a power of two: nothing is lost
        return self.add_index(
            f"mul {factor}", lambda a: Builder.mul(x=a, y=factor), lambda a: a * float(factor), place
        )

    def pick(self, kinds: str, fits: Callable[[np.ndarray], bool] = lambda _: True) -> int | None:
        """Returns the place of a value of these kinds (f, i, b) that fits, a late one rather than an early one."""
        places = [i for i, a in enumerate(self.exact) if a.dtype.kind in kinds and 0 < a.size <= 2048 and fits(a)]
        if not places:
            return None
        return places[-1] if self.chance(0.4) else self.choice(places)

    def kind(self, place: int) -> str:
        """Returns f, i or b."""
        return self.exact[place].dtype.kind

    def shape(self, place: int) -> tuple[int, ...]:
        """Returns a value's shape."""
        return self.exact[place].shape

    def constant(self, shape: Sequence[int], kind: str = "f") -> np.ndarray:
        """Returns a constant of the program's type, or of int32."""
        if kind == "i":
            return self.rng.integers(-5, 6, shape).astype(np.int32)
        return self.rng.uniform(-2, 2, shape).astype(self.dtype)

    def scalar(self, value: float) -> Any:
        """Returns a number of the program's type."""
        return self.dtype(value)

    def far_from(self, place: int, value: float) -> bool:
        """Tells whether rounding could not carry any element over a value."""
        return all(
            np.abs(a - value).min() > self.margin * (1 + np.abs(a).max())
            for a in (self.exact[place], self.rounded[place])
        )

    def far_from_steps(self, place: int, function: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Tells whether rounding could not carry any element of a function of the value over a whole number."""
        return all(
            np.abs(a - np.round(a)).min() > self.margin * (1 + np.abs(a).max())
            for a in (function(self.exact[place]), function(self.rounded[place]))
        )

    def sorted_apart(self, place: int, axis: int) -> bool:
        """Tells whether rounding could not exchange any two elements along an axis."""
        for a in (self.exact[place], self.rounded[place]):
            gaps = np.diff(np.sort(a, axis), axis=axis)
            if gaps.size and gaps.min() <= self.margin * (1 + np.abs(a).max()):
                return False
        return True

    def broadcasts(self, shape: Sequence[int], other: Sequence[int]) -> bool:
        """Tells whether two shapes go together, and to no more than the allowed rank."""
        try:
            np.broadcast_shapes(tuple(shape), tuple(other))
        except ValueError:
            return False
        return True

    def broadcastable(self, shape: Sequence[int]) -> list[int]:
        """Returns a shape that goes with another without enlarging it."""
        kept = shape[self.integer(0, len(shape) + 1) :]
        return [1 if self.chance(0.3) else n for n in kept]

    def axis(self, rank: int) -> int:
        """Returns an axis, counted from either end."""
        return self.integer(-rank, rank)

    def axes(self, rank: int) -> list[int]:
        """Returns some axes, at least one, counted from either end."""
        chosen = self.rng.permutation(rank)[: self.integer(1, rank + 1)]
        return [int(a) - (rank if self.chance(0.3) else 0) for a in chosen]

    def integer(self, low: int, high: int) -> int:
        """Returns an integer from low to before high."""
        return int(self.rng.integers(low, high))

    def chance(self, probability: float) -> bool:
        """Returns True as often as that."""
        return bool(self.rng.random() < probability)

    def choice(self, items: Sequence[T]) -> T:
        """Returns one of the items."""
        return items[self.integer(0, len(items))]

    def _any_shape(self) -> list[int]:
        return [self.integer(1, 6) for _ in range(self.integer(1, MAX_RANK))]


Move = Callable[[Maker], bool]
MOVES: dict[str, Move] = {}


def move(function: Move) -> Move:
    """Registers a move under the function's name."""
    MOVES[function.__name__] = function
    return function
