"""The report's figures, each an SVG that stands inside a page: its text and axes take the page's colour."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from optimum_ane.charts import BLUE, DEVICE_COLORS, chart_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's own text colour until the SVG is written; no figure uses it for anything else."""

_GRID, _WIDTH, _NAME = "#88888855", 9.0, 40


def strip(verdicts: Sequence[str], shares: Sequence[float] | None = None, *, cuts: Sequence[int] = ()) -> str:
    """Draws the operations in their order, each a bar coloured by where it is predicted to run.

    Args:
        verdicts: "ane", "conditional" or "fallback" for each operation.
        shares: The width of each, its share of the estimated time say; None gives all the same.
        cuts: Before which operations the device changes, each marked.
    """
    widths = [1.0] * len(verdicts) if shares is None else list(shares)
    with _figure(1.0) as (figure, axes):
        start = 0.0
        for verdict, length in _runs(verdicts, widths):
            axes.barh(0, length, left=start, height=1.0, color=DEVICE_COLORS[verdict], linewidth=0)
            start += length
        for cut in cuts:
            axes.plot(sum(widths[:cut]), 0.62, "v", color=INK, markersize=5, clip_on=False)
        axes.set_xlim(0, start or 1.0)
        axes.set_ylim(-0.5, 0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            "operations, in an order in which they can run" if shares is None else "share of the estimated time, %"
        )
        return _svg(figure, "operations by device: " + ", ".join(f"{verdicts.count(v)} {v}" for v in DEVICE_COLORS))


def bars(values: Mapping[str, float], unit: str, *, limit: float | None = None, ceiling: float = math.inf) -> str:
    """Draws a horizontal bar for each entry, its number beside it.

    Args:
        values: By name, from the top down.
        unit: Of all of them.
        limit: A threshold to draw as a line.
        ceiling: Where the bar of a number above it ends; such a number is an infinite ratio, of equal values.
    """
    names, numbers = [_short(name) for name in values], [min(number, ceiling) for number in values.values()]
    labels = [f"{number:.4g}" if number <= ceiling else "equal" for number in values.values()]
    rows = range(len(names))
    with _figure(0.55 + 0.24 * len(names)) as (figure, axes):
        drawn = axes.barh(rows, numbers, height=0.68, color=BLUE)
        axes.bar_label(drawn, labels, padding=3)
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.margins(x=0.1)
        axes.set_xlabel(unit)
        if limit is not None:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
        return _svg(figure, ", ".join(f"{name} {number:.4g} {unit}" for name, number in values.items()))


def ranges(values: Mapping[str, tuple[float, float, float]], unit: str, notes: Mapping[str, str]) -> str:
    """Draws a range and a dot for each entry, on a logarithmic axis.

    Args:
        values: Low, typical and high by name, from the top down.
        unit: Of all of them.
        notes: A word beside each.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    with _figure(0.55 + 0.24 * len(values)) as (figure, axes):
        for row, (name, (low, typical, high)) in enumerate(values.items()):
            axes.plot([low, high], [row, row], color=BLUE, linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot(typical, row, "o", color=BLUE, markersize=5.5)
            text = f"{typical:.3g}, {notes[name]}"
            axes.annotate(text, (high, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x")
        # Space for the words on the right.
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.25)
        axes.set_xlabel(unit)
        return _svg(figure, ", ".join(f"{name} {typical:.3g} {unit}" for name, (_, typical, _) in values.items()))


def _short(name: str) -> str:
    """A name that leaves space for the bars; names come from packages."""
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[-_NAME // 2 :]}"


def _runs(verdicts: Sequence[str], widths: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Joins runs of one verdict, so that a program of thousands of operations is a handful of shapes."""
    current, length = "", 0.0
    for verdict, width in zip(verdicts, widths, strict=True):
        if verdict != current and current:
            yield current, length
            length = 0.0
        current, length = verdict, length + width
    if current:
        yield current, length


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    # Imported where something is drawn: a command that only predicts is ready half a second sooner.
    from matplotlib.figure import Figure

    # Not pyplot: it keeps state for the whole process and looks for a screen.
    with chart_style(INK, _GRID, text_as_paths=False):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def _svg(figure: Figure, description: str) -> str:
    """Writes a figure as an SVG element, the same bytes each time, described for readers who hear the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    opening = re.search(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', svg)
    assert opening is not None
    return f'<svg role="img" aria-label="{escape(description)}" viewBox="{opening[1]}">{svg[opening.end() :]}'
