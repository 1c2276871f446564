"""Looks into a program while it runs: which operation takes how long, and what the values in between are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimum_ane.runtimes.portable.graph import Node
from optimum_ane.runtimes.portable.program import Step
from optimum_ane.runtimes.portable.session import PortableSession, PortableState


@dataclass(frozen=True)
class Timing:
    """What one operation of a program takes.

    Attributes:
        name: The name of its (first) output.
        op: MIL's name of the operation.
        seconds: In one prediction, all turns of a loop together; the median of several predictions.
    """

    name: str
    op: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a prediction goes.

    Attributes:
        seconds: A whole prediction, timed without looking into it; the median.
        runs: How many predictions were timed each way.
        timings: One for each operation that ran, in the program's order.
    """

    seconds: float
    runs: int
    timings: tuple[Timing, ...]

    def by_operation(self) -> list[tuple[str, int, float]]:
        """Returns each kind of operation with how many there are and their seconds; the most costly first."""
        sums: dict[str, tuple[int, float]] = {}
        for timing in self.timings:
            uses, seconds = sums.get(timing.op, (0, 0.0))
            sums[timing.op] = uses + 1, seconds + timing.seconds
        return sorted(((op, *total) for op, total in sums.items()), key=lambda row: -row[2])

    def slowest(self, count: int = 10) -> list[Timing]:
        """Returns the operations that take longest."""
        return sorted(self.timings, key=lambda timing: -timing.seconds)[:count]


def profile(session: PortableSession, inputs: Mapping[str, Any], runs: int = 7) -> Profile:
    """Times a package's operations, after two predictions that warm it up.

    Args:
        session: The package.
        inputs: As `predict` takes them; each prediction starts with a new state.
        runs: How many predictions are timed, as many with a look at each operation as without.
    """
    whole: list[float] = []
    parts: dict[Node, list[float]] = {}
    for run in range(-2, runs):
        start = time.perf_counter()
        session.predict(inputs, new_state(session))
        seconds = time.perf_counter() - start
        clock = _Clock()
        session.predict(inputs, new_state(session), observer=clock)
        if run >= 0:
            whole.append(seconds)
            for node, taken in clock.seconds.items():
                parts.setdefault(node, []).append(taken)
    timings = (Timing(node.name, node.op, statistics.median(taken)) for node, taken in parts.items())
    return Profile(statistics.median(whole), runs, tuple(timings))


def new_state(session: PortableSession) -> PortableState | None:
    """Returns a state for a program that has states."""
    return session.make_state() if session.states else None


class _Clock:
    """An observer that takes the time between the end of one operation and that of the next.

    The first operation's time thus holds the checks of the inputs, and that of an operation with blocks only what is
    left of it when the operations inside have been counted.
    """

    only_looks = True

    def __init__(self) -> None:
        self.seconds: dict[Node, float] = {}
        self._last = time.perf_counter()

    def __call__(self, step: Step, value: Any) -> None:
        now = time.perf_counter()
        self.seconds[step.node] = self.seconds.get(step.node, 0.0) + now - self._last
        self._last = time.perf_counter()
