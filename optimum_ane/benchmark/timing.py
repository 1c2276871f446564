"""Times several models so that what slows the machine down slows all of them, and says when it was too restless.

The models take turns. A turn is a block of predictions one after the other and not a single one: an engine that
waited for the others starts slowly, and what is asked for first is its speed when it is kept busy. How it answers
after a pause is measured by itself, in `time_paused`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from optimum_ane.errors import InputError

Prediction = Callable[[], object]
Clock = Callable[[], float]
Blocks = list[list[float]]
"""Seconds, one list for each round."""

MAX_SPREAD, MAX_DRIFT = 0.10, 0.10
"""Beyond these a run counts as noisy. A quiet machine stays below 0.03 in both."""


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        iterations: Predictions of each model that count.
        warmup: Predictions at the start of each block that do not count.
        rounds: Blocks of each model; never more than iterations.
        pause: Seconds of rest before each prediction of the run with pauses; 0 leaves that run out.
        paused_iterations: Predictions of each model in that run.
        seed: Of the inputs.
    """

    iterations: int = 50
    warmup: int = 3
    rounds: int = 5
    pause: float = 0.5
    paused_iterations: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses numbers that make no measurement.

        Raises:
            InputError: A number is out of range.
        """
        for name, least in (("iterations", 1), ("warmup", 0), ("rounds", 1), ("pause", 0), ("paused_iterations", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def block_sizes(self) -> list[int]:
        """How many predictions count in each block: the iterations dealt out over the rounds."""
        rounds = min(self.rounds, self.iterations)
        each, left = divmod(self.iterations, rounds)
        return [each + (turn < left) for turn in range(rounds)]


@dataclass(frozen=True)
class Summary:
    """What the predictions of one model took.

    Attributes:
        count: How many counted.
        median_ms: Half took no longer.
        p90_ms: Nine of ten took no longer; between two measured ones it is interpolated, as is p99.
        p99_ms: 99 of 100 took no longer. Of fewer than a hundred predictions it is close to the longest.
        min_ms: The shortest.
        mean_ms: The average.
        spread: The distance between the quartiles, as a share of the median.
        drift: The median of the last round over that of the first, minus 1; 0 with one round.
    """

    count: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    spread: float
    drift: float

    @property
    def is_noisy(self) -> bool:
        """Whether the machine was too restless for the numbers to be trusted."""
        return self.spread > MAX_SPREAD or abs(self.drift) > MAX_DRIFT


def time_bursts(
    predictions: Mapping[str, Prediction],
    settings: Settings,
    *,
    clock: Clock = time.perf_counter,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Blocks]:
    """Runs the models in turn, block by block, each round in another order.

    Args:
        predictions: What to time, by the name of the model.
        settings: How long.
        clock: Seconds since any moment.
        advance: Called after each block.

    Returns:
        Seconds of the predictions that count, by model and round.
    """
    times: dict[str, Blocks] = {name: [] for name in predictions}
    for turn, size in enumerate(settings.block_sizes()):
        for name in _rotated(list(predictions), turn):
            run = predictions[name]
            for _ in range(settings.warmup):
                run()
            with _no_garbage():
                times[name].append([_timed(run, clock) for _ in range(size)])
            advance()
    return times


def time_paused(
    predictions: Mapping[str, Prediction],
    settings: Settings,
    *,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Blocks]:
    """Times single predictions, each after a rest, as in an app that is asked now and then; none warms up.

    Args:
        predictions: What to time, by the name of the model.
        settings: How long a rest, and how often.
        clock: Seconds since any moment.
        sleep: Waits that many seconds.
        advance: Called after each prediction.

    Returns:
        Seconds, by model, one round for each prediction.
    """
    times: dict[str, Blocks] = {name: [] for name in predictions}
    for turn in range(settings.paused_iterations):
        for name in _rotated(list(predictions), turn):
            sleep(settings.pause)
            times[name].append([_timed(predictions[name], clock)])
            advance()
    return times


def summarize(blocks: Blocks) -> Summary:
    """Computes the numbers that stand in a report, in milliseconds."""
    taken = np.array([seconds for block in blocks for seconds in block]) * 1e3
    low, median, high, p90, p99 = np.percentile(taken, [25, 50, 75, 90, 99]).tolist()
    return Summary(
        count=len(taken),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=float(taken.min()),
        mean_ms=float(taken.mean()),
        spread=(high - low) / median,
        drift=statistics.median(blocks[-1]) / statistics.median(blocks[0]) - 1,
    )


def times_as_fast(blocks: Blocks, other: Blocks) -> float:
    """How many times as fast one model is as another: the median of the ratios within a round.

    Within a round, and not of the two medians over all of them, so that a slow minute of the machine cancels out.
    """
    ratios = [statistics.median(theirs) / statistics.median(ours) for ours, theirs in zip(blocks, other, strict=True)]
    return statistics.median(ratios)


def _rotated(names: Sequence[str], turn: int) -> list[str]:
    offset = turn % len(names)
    return [*names[offset:], *names[:offset]]


def _timed(run: Prediction, clock: Clock) -> float:
    start = clock()
    run()
    return clock() - start


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Keeps Python's collector, which strikes at any time, out of the block."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
