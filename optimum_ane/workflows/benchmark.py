"""A benchmark from the package on disk to the report."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optimum_ane.benchmark.machine import this_machine, versions
from optimum_ane.benchmark.memory import Alone, measure_alone
from optimum_ane.benchmark.report import BenchmarkReport, Row
from optimum_ane.benchmark.timed_models import Load, Runner, Subject, open_subject, run_original
from optimum_ane.benchmark.timing import Settings, summarize, time_bursts, time_paused, times_as_fast
from optimum_ane.errors import CheckpointError, RuntimeUnavailableError, UnsupportedModelError
from optimum_ane.package.form import COMPUTE_UNITS
from optimum_ane.package.layout import find_mlpackage
from optimum_ane.package.report import measure_sizes
from optimum_ane.progress import row_progress
from optimum_ane.runtimes.coreml import load_mlmodel
from optimum_ane.validation.psnr import psnr
from optimum_ane.workflows.benchmark_preparation import (
    Shape,
    Target,
    list_subjects,
    make_inputs,
    make_package,
    make_stock,
    open_target,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

COREML = (
    "Core ML on this machine. Compute units are what was asked for; which unit ran which operation is the system's "
    "decision."
)
PORTABLE = (
    "Portable runtime and PyTorch on this machine's CPU: no statement about an Apple device. For that, run this "
    "command on a Mac."
)
MeasureAlone = Callable[[Subject, Mapping[str, np.ndarray], int], Alone]


@dataclass(frozen=True)
class Engines:
    """What executes and measures; tests inject a Core ML.

    Attributes:
        has_coreml: Whether packages go through Core ML; else the portable runtime executes them.
        load: Loads a package into Core ML.
        measure_alone: Measures a subject in a process of its own.
    """

    has_coreml: bool = sys.platform == "darwin"
    load: Load = load_mlmodel
    measure_alone: MeasureAlone = measure_alone


def benchmark_package(
    package: str | Path,
    *,
    compare: str | None = None,
    with_original: bool = True,
    with_stock: bool = True,
    compute_units: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (),
    sequence_lengths: Sequence[int] = (),
    threads: int | None = None,
    settings: Settings | None = None,
    engines: Engines | None = None,
) -> BenchmarkReport:
    """Times a package beside the original in PyTorch and beside a stock-layout conversion of the same checkpoint.

    On macOS through Core ML, elsewhere with the portable runtime.

    Args:
        package: Directory that `export` wrote, or a bare `.mlpackage`, which is timed alone.
        compare: Directory or Hub id of the original; None takes the source that the package names.
        with_original: Whether to compare with a checkpoint at all; without, there is no stock conversion either.
        with_stock: Whether to convert the checkpoint in the stock layout.
        compute_units: Core ML's, several to compare; None takes all four on macOS.
        batch_sizes: Rows per prediction; none takes the package's own. Other shapes than its own are exported from
            the checkpoint for the purpose and thrown away.
        sequence_lengths: Tokens per row; the same.
        threads: PyTorch's, of the portable runtime and of the original, from now on; None leaves them.
        settings: How long to measure.
        engines: What executes; None stands for this machine's.

    Returns:
        The report. A conversion that cannot be made is a note in it.

    Raises:
        ANEError: What was wrong, where, and what to do.
    """
    settings, engines = settings or Settings(), engines or Engines()
    units = _compute_units(compute_units, engines)
    if threads is not None:
        torch.set_num_threads(threads)
    mlpackage = find_mlpackage(package)
    target = open_target(package, mlpackage, compare, with_original)
    rows: list[Row] = []
    notes: list[str] = []
    if target.config is None:
        notes.append("a bare .mlpackage does not say what it was made from: it is timed alone, on random inputs")
    elif target.config.pooling is not None and with_stock and target.checkpoint is not None:
        notes.append("the stock conversion gives hidden states, the package one vector per row")
    with tempfile.TemporaryDirectory(prefix="optimum-ane-") as folder:
        for shape in target.shapes(batch_sizes, sequence_lengths):
            one = _OneShape(target, shape, settings, engines, Path(folder), notes)
            rows += one.measure(units, with_stock)
            gc.collect()
    return BenchmarkReport(
        package=Path(package).expanduser().resolve().name,
        original=None if target.checkpoint is None else target.checkpoint.source.name,
        task=None if target.config is None else target.config.task,
        statement=COREML if engines.has_coreml else PORTABLE,
        machine=this_machine(),
        versions=versions(),
        settings=settings,
        rows=tuple(rows),
        notes=tuple(notes),
    )


class _OneShape:
    """The measurements in one shape."""

    def __init__(
        self,
        target: Target,
        shape: Shape | None,
        settings: Settings,
        engines: Engines,
        folder: Path,
        notes: list[str],
    ) -> None:
        self.target, self.shape, self.settings, self.engines = target, shape, settings, engines
        self.folder, self.notes = folder, notes
        self.label = "" if shape is None else f" {shape[0]} × {shape[1]}"
        self.inputs = make_inputs(target, shape, settings.seed)

    def measure(self, units: Sequence[str], with_stock: bool) -> list[Row]:
        """Makes the packages, then measures each alone, then all in turn."""
        subjects = self._subjects(units, with_stock)
        alone: dict[str, Alone] = {}
        with row_progress(f"loading each alone{self.label}") as progress:
            for subject in subjects:
                alone[subject.name] = self.engines.measure_alone(subject, self.inputs, torch.get_num_threads())
                progress(len(alone), len(subjects))
        runners = {subject.name: self._open(subject) for subject in subjects}
        answers = {name: run() for name, run in runners.items()}
        settings = self.settings
        with _counted(f"timing in turn{self.label}", len(runners) * len(settings.block_sizes())) as advance:
            bursts = time_bursts(runners, settings, advance=advance)
        paused = {}
        if settings.pause > 0:
            with _counted(f"timing with pauses{self.label}", len(runners) * settings.paused_iterations) as advance:
                paused = time_paused(runners, settings, advance=advance)
        original = next((subject.name for subject in subjects if subject.kind == "original"), None)
        return [
            Row(
                kind=subject.kind,
                runtime=subject.engine,
                compute_units=subject.compute_units,
                precision=subject.precision,
                batch_size=None if self.shape is None else self.shape[0],
                sequence_length=None if self.shape is None else self.shape[1],
                burst=summarize(bursts[subject.name]),
                paused=summarize(paused[subject.name]) if paused else None,
                times_as_fast=None
                if original in (None, subject.name)
                else times_as_fast(bursts[subject.name], bursts[original]),
                load_seconds=alone[subject.name].load_seconds,
                first_prediction_ms=alone[subject.name].first_prediction_ms,
                memory_bytes=alone[subject.name].memory_bytes,
                size_bytes=self._size(subject),
                psnr=None if original in (None, subject.name) else _compare(answers[original], answers[subject.name]),
            )
            for subject in subjects
        ]

    def _subjects(self, units: Sequence[str], with_stock: bool) -> list[Subject]:
        package, stock = self.target.mlpackage, None
        if self.shape is not None:
            steps = 1 + (with_stock and self.target.checkpoint is not None)
            with row_progress(f"making packages{self.label}") as progress:
                progress(0, steps)
                package = make_package(self.target, self.shape, self.folder)
                progress(1, steps)
                if steps == 2:
                    stock = self._stock()
        return list_subjects(package, stock, self.target, self.shape, units)

    def _stock(self) -> Path | None:
        assert self.shape is not None
        try:
            return make_stock(self.target, self.shape, self.inputs, self.folder)
        except UnsupportedModelError as error:
            self.notes.append(f"no stock-layout conversion{self.label}: {error}")
            return None

    def _open(self, subject: Subject) -> Runner:
        if subject.kind == "original":
            assert self.target.checkpoint is not None
            return run_original(self.target.checkpoint.original(), subject, self.inputs)
        return open_subject(subject, self.inputs, self.engines.load)

    def _size(self, subject: Subject) -> int:
        if subject.kind != "original":
            return measure_sizes(Path(subject.path))["package"]
        assert self.target.checkpoint is not None
        return sum(4 * parameter.numel() for parameter in self.target.checkpoint.original().parameters())


def _compute_units(asked: Sequence[str] | None, engines: Engines) -> tuple[str, ...]:
    if engines.has_coreml:
        return tuple(dict.fromkeys(asked or COMPUTE_UNITS))
    if asked:
        raise RuntimeUnavailableError(
            "--compute-units are Core ML's, which needs macOS; on this machine the portable runtime runs on the CPU: "
            "leave them out"
        )
    return ()


def _compare(reference: Mapping[str, Any], answer: Mapping[str, Any]) -> float | None:
    """PSNR of the worst output that both have."""
    names = [name for name in reference if isinstance(answer.get(name), np.ndarray)]
    for name in names:
        if not np.isfinite(reference[name]).all():
            raise CheckpointError(f"the original's own {name} holds NaN or infinity; its weights are damaged")
    return min((psnr(reference[name], answer[name]) for name in names), default=None)


@contextmanager
def _counted(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that is told of each step, and not how many there were."""
    with row_progress(description) as progress:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        progress(0, total)
        yield advance
