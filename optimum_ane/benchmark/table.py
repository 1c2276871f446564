"""A benchmark's report as a table in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from optimum_ane.benchmark.report import BenchmarkReport, Row
from optimum_ane.benchmark.timing import MAX_DRIFT, MAX_SPREAD
from optimum_ane.screen import make_console

_KINDS = {"package": "this package", "stock": "stock layout", "original": "original"}
_RUNTIMES = {"coreml": "Core ML", "portable": "portable", "pytorch": "PyTorch, CPU"}
_WIDTH = 119


def label(row: Row) -> str:
    """What a row is of: `"this package, Core ML, cpu_and_ne"`."""
    return f"{_KINDS[row.kind]}, {where(row)}"


def where(row: Row) -> str:
    """What executed it: `"Core ML, cpu_and_ne"`."""
    return ", ".join(filter(None, (_RUNTIMES[row.runtime], row.compute_units)))


def print_report(report: BenchmarkReport, console: Console | None = None) -> None:
    """Prints the tables and what they rest on, on stdout unless another console is given."""
    console = console or make_console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_table(report, f"Latency of {report.package}, ms", _latency(report)))
    console.print(_table(report, "In a process of its own, memory above what the libraries take", _FOOTPRINT))
    for line in _remarks(report):
        console.print(line, soft_wrap=True)


_Columns = Mapping[str, Callable[[Row], str]]
_FOOTPRINT: _Columns = {
    "load, s": lambda row: f"{row.load_seconds:.2f}",
    "first prediction, ms": lambda row: f"{row.first_prediction_ms:.1f}",
    "peak memory, MB": lambda row: f"{row.memory_bytes / 1e6:.0f}",
    "size, MB": lambda row: f"{row.size_bytes / 1e6:.1f}",
}


def _latency(report: BenchmarkReport) -> _Columns:
    columns: dict[str, Callable[[Row], str]] = {
        "median": lambda row: f"{'~ ' if row.is_noisy else ''}{row.burst.median_ms:.2f}",
        "p90": lambda row: f"{row.burst.p90_ms:.2f}",
        "p99": lambda row: f"{row.burst.p99_ms:.2f}",
    }
    if report.settings.pause > 0:
        columns["paused"] = lambda row: f"{row.paused.median_ms:.2f}" if row.paused else "–"
    if report.original is not None:
        columns["× original"] = lambda row: "–" if row.times_as_fast is None else f"{row.times_as_fast:.2f}"
        columns["PSNR, dB"] = lambda row: _psnr(row.psnr)
    return columns


def _table(report: BenchmarkReport, title: str, columns: _Columns) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("shape", "", "runs on"):
        table.add_column(heading, no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    shapes = [None, *(row.shape for row in report.rows), None]
    for index, row in enumerate(report.rows):
        shape = row.shape if shapes[index] != row.shape else ""
        cells = [column(row) for column in columns.values()]
        table.add_row(shape, _KINDS[row.kind], where(row), *cells, end_section=shapes[index + 2] != row.shape)
    return table


def _psnr(value: float | None) -> str:
    if value is None:
        return "–"
    return {math.inf: "equal", -math.inf: "not finite"}.get(value, f"{value:.1f}")


def _remarks(report: BenchmarkReport) -> list[str]:
    settings = report.settings
    lines = []
    if report.is_noisy:
        noisy = [row for row in report.rows if row.is_noisy]
        spread, drift = max(row.burst.spread for row in noisy), max(abs(row.burst.drift) for row in noisy)
        found = [f"spread by up to {spread:.0%} (limit {MAX_SPREAD:.0%})"] if spread > MAX_SPREAD else []
        found += [f"drifted by up to {drift:.0%} between rounds (limit {MAX_DRIFT:.0%})"] if drift > MAX_DRIFT else []
        lines.append(f"NOISY RUN: rows with ~ {' or '.join(found)}; close other programs and measure again")
    lines.append(report.statement)
    lines += report.notes
    rest = f"; {settings.paused_iterations} after a pause of {settings.pause:g} s" if settings.pause > 0 else ""
    lines.append(
        f"{settings.iterations} predictions in {len(settings.block_sizes())} rounds in turn, {settings.warmup} to "
        f"warm up before each round{rest}; seed {settings.seed}"
    )
    around = [row.model_class_ms for row in report.rows if row.model_class_ms is not None]
    if around:
        lines.append(
            "latency is that of the predictions; the model class around them (padding, copies) takes "
            f"{max(around):.2f} ms more a call, measured by itself"
        )
    if any(row.kind == "original" for row in report.rows):
        lines.append(f"original: {report.original} in float32; × original: the median of the ratios within a round")
    lines.append(str(report.machine))
    lines.append(", ".join(f"{name} {number}" for name, number in report.versions.items()))
    return lines
