"""Keeps values of a program while it runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import InputError
from optimum_ane.runtimes.portable.program import Step


class Recorder:
    """An observer that keeps values of a program by name.

    Attributes:
        values: The values kept, in the order in which they were computed. A value that a loop computes again is kept
            again, as `name@2`, `name@3` and so on.
    """

    only_looks = True

    def __init__(self, patterns: Iterable[str], *, rounded: bool) -> None:
        """Chooses values.

        Args:
            patterns: Names, or patterns of them as in a shell (`*attention*`).
            rounded: Whether fp16 values are rounded to fp16, so that nothing is lost by keeping them as fp16.
        """
        self.values: dict[str, np.ndarray] = {}
        self._patterns = dict.fromkeys(patterns, False)
        self._rounded = rounded
        self._turns: dict[str, int] = {}

    def __call__(self, step: Step, value: Any) -> None:
        """Keeps what was chosen of an operation's results; a copy, for results may share memory."""
        values = (value,) if isinstance(step.results, int) else (value or ())
        for output, item in zip(step.node.outputs, values, strict=True):
            if isinstance(item, torch.Tensor) and self._chosen(output.name):
                half = self._rounded and output.type is not None and output.type.dtype.name == "float16"
                array = item.numpy()
                self._keep(output.name, np.array(array, dtype=np.float16 if half else array.dtype, order="C"))

    def add(self, name: str, array: np.ndarray) -> None:
        """Keeps an array of this name, an input say, if it is among those chosen."""
        if self._chosen(name):
            self._keep(name, array)

    def check(self) -> None:
        """Checks that each name or pattern has chosen something.

        Raises:
            InputError: One has not; the message names values that are spelt like it.
        """
        for pattern, used in self._patterns.items():
            if not used:
                near = difflib.get_close_matches(pattern, self._turns, n=3, cutoff=0.4)
                hint = f"; near it are: {', '.join(near)}" if near else ""
                raise InputError(f"no value of the program that ran is named {pattern!r}{hint}; '*' writes all")

    def _chosen(self, name: str) -> bool:
        self._turns.setdefault(name, 0)  # remembered for the hint, chosen or not
        matched = [pattern for pattern in self._patterns if pattern == name or fnmatchcase(name, pattern)]
        self._patterns.update(dict.fromkeys(matched, True))
        return bool(matched)

    def _keep(self, name: str, array: np.ndarray) -> None:
        turn = self._turns[name] = self._turns[name] + 1
        self.values[name if turn == 1 else f"{name}@{turn}"] = array
