"""A benchmark from the package on disk to the report."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from optimum_ane.benchmark.machine import this_machine, versions
from optimum_ane.benchmark.memory import ProcessMeasurement, measure_process
from optimum_ane.benchmark.report import BenchmarkReport, Row
from optimum_ane.benchmark.timed_models import LoadedOriginal, load_timed_model
from optimum_ane.benchmark.timing import Settings, summarize, time_bursts, time_paused, times_as_fast
from optimum_ane.errors import RuntimeUnavailableError, UnsupportedModelError
from optimum_ane.package.form import COMPUTE_UNITS
from optimum_ane.package.working_folders import WorkingFolder
from optimum_ane.progress import row_progress
from optimum_ane.runtimes.coreml import Load, load_mlmodel
from optimum_ane.tasks import compared_fields
from optimum_ane.validation.comparison import answer_examples, compare_fields
from optimum_ane.workflows.benchmark_preparation import (
    BenchmarkedPackage,
    list_models,
    make_inputs,
    make_package,
    make_stock,
    open_package,
    shape_of,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optimum_ane.benchmark.timed_models import Inputs, LoadedModel, TimedModel
    from optimum_ane.package.form import ExportForm
    from optimum_ane.validation.comparison import Answers

COREML = (
    "Core ML on this machine. Compute units are what was asked for; which unit ran which operation is the system's "
    "decision."
)
PORTABLE = (
    "Portable runtime and PyTorch on this machine's CPU: no statement about an Apple device. For that, run this "
    "command on a Mac."
)
MeasureProcess = Callable[["TimedModel", "Inputs", int], ProcessMeasurement]


@dataclass(frozen=True)
class Engines:
    """What executes and measures; tests inject a Core ML.

    Attributes:
        has_coreml: Whether packages go through Core ML; else the portable runtime executes them.
        load: Loads a package into Core ML.
        measure_process: Measures a model in a process of its own.
    """

    has_coreml: bool = sys.platform == "darwin"
    load: Load = load_mlmodel
    measure_process: MeasureProcess = measure_process


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
        package: Directory that `export` wrote, or a bare `.mlpackage`, which is timed by itself.
        compare: Directory or Hub id of the original; None takes the source that the package names.
        with_original: Whether to compare with a checkpoint at all; without, there is no stock conversion either.
        with_stock: Whether to convert the checkpoint in the stock layout.
        compute_units: Core ML's, several to compare; None takes all four on macOS.
        batch_sizes: Rows per prediction; none takes the package's own. Other shapes than its own are exported from
            the checkpoint for the purpose and thrown away.
        sequence_lengths: Tokens per row; none takes each length of the package.
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
    opened = open_package(package, compare, with_original)
    rows: list[Row] = []
    notes = _notes(opened, with_stock)
    with WorkingFolder.temporary() as folder:
        for form in opened.forms(batch_sizes, sequence_lengths):
            one = _ShapeBenchmark(opened, form, settings, engines, folder, notes)
            rows += one.measure(units, with_stock)
            gc.collect()
    return BenchmarkReport(
        package=Path(package).expanduser().resolve().name,
        original=None if opened.checkpoint is None else opened.checkpoint.source.name,
        task=None if opened.manifest is None else opened.manifest.form.task,
        statement=COREML if engines.has_coreml else PORTABLE,
        machine=this_machine(),
        versions=versions(),
        settings=settings,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _notes(package: BenchmarkedPackage, with_stock: bool) -> list[str]:
    if package.manifest is None:
        return [
            "a bare .mlpackage does not say what it was made from: its default function is timed by itself, on "
            "random inputs"
        ]
    if package.manifest.form.pools and with_stock and package.checkpoint is not None:
        return ["the stock conversion gives hidden states, the package one vector per row"]
    return []


class _ShapeBenchmark:
    """The measurements in one shape."""

    def __init__(
        self,
        package: BenchmarkedPackage,
        form: ExportForm | None,
        settings: Settings,
        engines: Engines,
        folder: Path,
        notes: list[str],
    ) -> None:
        self.package, self.form, self.settings, self.engines = package, form, settings, engines
        self.folder, self.notes = folder, notes
        self.modality = "text" if package.manifest is None else package.manifest.modality
        self.label = "" if form is None else f" {shape_of(form)}"
        self.inputs = make_inputs(package, form, settings.seed)

    def measure(self, units: Sequence[str], with_stock: bool) -> list[Row]:
        """Makes the packages, then measures each in a process of its own, then all in turn."""
        models = self._models(units, with_stock)
        processes: dict[str, ProcessMeasurement] = {}
        with row_progress(f"loading each in a process of its own{self.label}") as progress:
            for model in models:
                processes[model.name] = self.engines.measure_process(model, self.inputs, torch.get_num_threads())
                progress(len(processes), len(models))
        loaded = {model.name: self._load(model) for model in models}
        ratios = self._compare(models, loaded)
        predictions = {name: model.prediction(self.inputs) for name, model in loaded.items()}
        settings = self.settings
        with _counted(f"timing in turn{self.label}", len(models) * len(settings.block_sizes())) as advance:
            bursts = time_bursts(predictions, settings, advance=advance)
        paused = {}
        if settings.pause > 0:
            with _counted(f"timing with pauses{self.label}", len(models) * settings.paused_iterations) as advance:
                paused = time_paused(predictions, settings, advance=advance)
        original = next((model.name for model in models if model.kind == "original"), None)
        return [
            Row(
                kind=model.kind,
                runtime=model.engine,
                compute_units=model.compute_units,
                precision=model.precision,
                batch_size=None if self.form is None else self.form.batch_size,
                sequence_length=None if self.form is None or self.modality != "text" else self.form.longest,
                burst=summarize(bursts[model.name]),
                paused=summarize(paused[model.name]) if paused else None,
                times_as_fast=None
                if original in (None, model.name)
                else times_as_fast(bursts[model.name], bursts[original]),
                model_class_ms=loaded[model.name].model_class_ms(self.inputs),
                load_seconds=processes[model.name].load_seconds,
                first_prediction_ms=processes[model.name].first_prediction_ms,
                memory_bytes=processes[model.name].memory_bytes,
                size_bytes=self._size(model),
                psnr=ratios.get(model.name),
            )
            for model in models
        ]

    def _models(self, units: Sequence[str], with_stock: bool) -> list[TimedModel]:
        path, stock = self.package.path, None
        if self.form is not None:
            steps = 1 + (with_stock and self.package.checkpoint is not None)
            with row_progress(f"making packages{self.label}") as progress:
                progress(0, steps)
                path = make_package(self.package, self.form, self.folder)
                progress(1, steps)
                if steps == 2:
                    stock = self._stock(self.form)
        return list_models(self.package, path, stock, self.form, units)

    def _stock(self, form: ExportForm) -> Path | None:
        try:
            return make_stock(self.package, form, self.inputs, self.folder)
        except UnsupportedModelError as error:
            self.notes.append(f"no stock-layout conversion{self.label}: {error}")
            return None

    def _load(self, model: TimedModel) -> LoadedModel:
        if model.kind == "original":
            assert model.form is not None
            return LoadedOriginal(self.package.original, model.form)
        return load_timed_model(model, self.engines.load)

    def _compare(self, models: Sequence[TimedModel], loaded: dict[str, LoadedModel]) -> dict[str, float]:
        """PSNR of the worst output of each package, by name; empty without an original."""
        if self.package.checkpoint is None:
            return {}
        references: dict[bool, Answers] = {}
        ratios = {}
        for model in models:
            if model.form is None or model.kind == "original":
                continue
            pools = model.form.pools
            fields = compared_fields(model.form.task, pools, self.modality)
            if pools not in references:
                original = LoadedOriginal(self.package.original, model.form)
                references[pools] = answer_examples(original, [self.inputs], fields)
            answers = answer_examples(loaded[model.name], [self.inputs], fields)
            ratios[model.name] = min(compare_fields(references[pools], answers, [self.inputs], fields).values())
        return ratios

    def _size(self, model: TimedModel) -> int:
        if model.kind != "original":
            return size_of(model)
        return sum(4 * parameter.numel() for parameter in self.package.original.parameters())


def _compute_units(asked: Sequence[str] | None, engines: Engines) -> tuple[str, ...]:
    if engines.has_coreml:
        return tuple(dict.fromkeys(asked or COMPUTE_UNITS))
    if asked:
        raise RuntimeUnavailableError(
            "--compute-units are Core ML's, which needs macOS; on this machine the portable runtime runs on the CPU: "
            "leave them out"
        )
    return ()


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
