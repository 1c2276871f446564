"""Where a float16 program leaves the range of float16, and what the value is without rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.runtimes import Session
from optimum_ane.runtimes.portable import PortableSession

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.runtimes.portable.program import Observer, Step
    from optimum_ane.validation.comparison import Model

LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class Overflow:
    """The first value of a program that is not finite.

    Attributes:
        name: Of the value.
        operation: What computes it.
        largest: Its largest magnitude where nothing is rounded to float16.
    """

    name: str
    operation: str
    largest: float

    def describe(self) -> str:
        """One sentence: where, how large, and what can be done."""
        if not self.largest > LARGEST_FLOAT16:
            return f"the first value that is not finite is {self.name} ({self.operation})"
        return (
            f"float16 overflows in {self.name} ({self.operation}): its largest value is {self.largest:,.0f}, and "
            f"float16 ends at {LARGEST_FLOAT16:,.0f}; export with --precision float32 for CPU and GPU, or scale down "
            "the weights of the checkpoint that lead there"
        )


class ObservedSession:
    """A portable session that shows an observer every operation of every prediction; see `runtimes.Session`."""

    def __init__(self, session: PortableSession, observer: Observer) -> None:
        self._session, self._observer = session, observer
        self.runtime, self.function_name = session.runtime, session.function_name
        self.inputs, self.outputs, self.states = session.inputs, session.outputs, session.states
        self.functions = session.functions

    def function(self, name: str) -> ObservedSession:
        """See `Session`."""
        return ObservedSession(self._session.function(name), self._observer)

    def with_rows(self, rows: int) -> ObservedSession:
        """See `Session`."""
        return ObservedSession(self._session.with_rows(rows), self._observer)

    def make_state(self) -> Any:
        """See `Session`."""
        return self._session.make_state()

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`; values in between go to the observer."""
        return self._session.predict(inputs, state, observer=self._observer)


def find_overflow(
    packages: Mapping[str, Path],
    make_model: Callable[[Mapping[str, Session]], Model],
    examples: Sequence[Mapping[str, Tensor]],
) -> Overflow | None:
    """Runs programs once more, looks at every value, and names the first that is not finite.

    Args:
        packages: The `.mlpackage`s by the program's name.
        make_model: Makes the model class over sessions.
        examples: Keyword arguments of it.

    Returns:
        None where every value is finite.
    """
    found: list[tuple[str, str]] = []

    def look(step: Step, value: Any) -> None:
        for name, item in _tensors(step, value):
            if not found and item.is_floating_point() and not item.isfinite().all():
                found.append((name, step.node.op))

    _run(packages, "program", look, make_model, examples)
    if not found:
        return None
    (place, operation), largest = found[0], [0.0]

    def measure(step: Step, value: Any) -> None:
        for name, item in _tensors(step, value):
            if name == place and item.numel():
                largest.append(item.abs().max().item())

    _run(packages, "float32", measure, make_model, examples)
    return Overflow(place, operation, max(number for number in largest if not math.isnan(number)))


def _run(
    packages: Mapping[str, Path],
    precision: Any,
    observer: Observer,
    make_model: Callable[[Mapping[str, Session]], Model],
    examples: Sequence[Mapping[str, Tensor]],
) -> None:
    sessions = {
        name: ObservedSession(PortableSession(path, precision=precision), observer) for name, path in packages.items()
    }
    model = make_model(sessions)
    with torch.no_grad():
        for batch in examples:
            model(**batch)


def _tensors(step: Step, value: Any) -> list[tuple[str, Tensor]]:
    values = (value,) if isinstance(step.results, int) else (value or ())
    pairs = zip(step.node.outputs, values, strict=True)
    return [(output.name, item) for output, item in pairs if isinstance(item, torch.Tensor)]
