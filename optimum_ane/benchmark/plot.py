"""A benchmark's report as a picture: bars for one shape, curves over the length or the batch for several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimum_ane.benchmark.report import BenchmarkReport, Row
from optimum_ane.benchmark.table import label
from optimum_ane.charts import BLUE, DEVICE_COLORS, ORANGE, chart_style
from optimum_ane.errors import OutputError
from optimum_ane.package.file_writing import replacing_file

FORMATS = (".png", ".svg", ".pdf")
_COLORS = {"package": DEVICE_COLORS["ane"], "stock": ORANGE, "original": BLUE}
_DASHES = {None: "-", "cpu_and_ne": "-", "all": "--", "cpu_and_gpu": "-.", "cpu_only": ":"}
_MARKERS = {"package": "o", "stock": "s", "original": "D"}


def check_format(path: str | Path) -> None:
    """Refuses a file name that says no format that can be drawn.

    Raises:
        OutputError: The suffix is not one of `FORMATS`.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: a picture ends in one of {', '.join(FORMATS)}")


def draw(report: BenchmarkReport, path: str | Path) -> None:
    """Draws the medians, with the range up to the 90th percentile, into a file.

    Raises:
        OutputError: The file cannot be written, or its suffix says no format.
    """
    check_format(path)
    # Not pyplot: it keeps state for the whole process and looks for a screen.
    with chart_style():
        lengths = sorted({row.sequence_length for row in report.rows if row.sequence_length})
        batches = sorted({row.batch_size for row in report.rows if row.batch_size})
        panels = _panels(report, lengths, batches)
        is_sweep = len(lengths) * len(batches) > 1
        size = (6.0 + 3.0 * len(panels), 4.2) if is_sweep else (8.0, 1.9 + 0.34 * len(report.rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=len(panels) > 1)[0]
        for one, (title, rows) in zip(axes, panels, strict=True):
            if len(lengths) > 1:
                _curves(one, rows, "sequence_length", "tokens per row")
            elif len(batches) > 1:
                _curves(one, rows, "batch_size", "rows per prediction")
            else:
                _bars(one, rows)
            one.set_title(title, fontsize=10)
        if is_sweep:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        figure.suptitle(f"{report.package}: latency", fontsize=12)
        figure.supxlabel(_caption(report), fontsize=7.5, color="#666666")
        form = Path(path).suffix.lower().removeprefix(".")
        with replacing_file(path) as file:
            figure.savefig(file, format=form, dpi=160, metadata={"Creator": None} if form == "svg" else None)


def _panels(report: BenchmarkReport, lengths: Sequence[int], batches: Sequence[int]) -> list[tuple[str, list[Row]]]:
    """One panel, or one for each batch size where lengths and batch sizes both vary."""
    if len(lengths) > 1 and len(batches) > 1:
        return [(f"batch {batch}", [row for row in report.rows if row.batch_size == batch]) for batch in batches]
    title = f"{batches[0]} × {lengths[0]} tokens" if len(lengths) == len(batches) == 1 else ""
    return [(title, [*report.rows])]


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    medians = [row.burst.median_ms for row in rows]
    reach = [(0.0, row.burst.p90_ms - row.burst.median_ms) for row in rows]
    colors = [_COLORS[row.kind] for row in rows]
    axes.barh([label(row) for row in rows], medians, height=0.62, color=colors)
    axes.errorbar(medians, range(len(rows)), xerr=np.transpose(reach), fmt="none", ecolor="#333333", capsize=3)
    for place, row in enumerate(rows):
        text, end = f"{row.burst.median_ms:.3g}", (row.burst.p90_ms, place)
        axes.annotate(text, end, xytext=(7, 0), textcoords="offset points", va="center")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds, median; whisker: 90th percentile")


def _curves(axes: Axes, rows: Sequence[Row], attribute: str, title: str) -> None:
    for name in dict.fromkeys(label(row) for row in rows):
        mine = sorted((row for row in rows if label(row) == name), key=lambda row: getattr(row, attribute))
        places = [getattr(row, attribute) for row in mine]
        medians = [row.burst.median_ms for row in mine]
        color = _COLORS[mine[0].kind]
        axes.fill_between(places, medians, [row.burst.p90_ms for row in mine], color=color, alpha=0.15, linewidth=0)
        dash, marker = _DASHES[mine[0].compute_units], _MARKERS[mine[0].kind]
        axes.plot(places, medians, linestyle=dash, marker=marker, color=color, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted({getattr(row, attribute) for row in rows}))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(which="major")
    axes.set_xlabel(title)
    axes.set_ylabel("milliseconds, median")


def _caption(report: BenchmarkReport) -> str:
    noisy = "NOISY RUN. " if report.is_noisy else ""
    tools = ", ".join(
        f"{name} {report.versions[name]}" for name in ("coremltools", "torch") if name in report.versions
    )
    return f"{noisy}{report.statement}\n{report.machine}; {tools}"
