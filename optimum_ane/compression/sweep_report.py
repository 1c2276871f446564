"""A sweep as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from optimum_ane.charts import BLUE, GRID, INK, PAPER, chart_style
from optimum_ane.compression.sweep import Point, Sweep
from optimum_ane.package.file_writing import replacing_file
from optimum_ane.package.metric_format import drop_unit
from optimum_ane.screen import make_console

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = ("sweep.svg", "sweep.png")
_FRONT, _OTHER = BLUE, "#a49f95"
_DPI = 160
_MOST_SHOWN = 12.0  # points below the best score


def print_sweep(sweep: Sweep, console: Console | None = None) -> None:
    """Prints the table, on stdout unless another console is given."""
    (console or make_console()).print(as_table(sweep))


def as_table(sweep: Sweep) -> Group:
    """The table that `rich` prints, with what is worth a remark below it."""
    table = Table()
    table.add_column("recipe", no_wrap=True)
    for name in ("weights", "of it", "right", "drop", "PSNR"):
        table.add_column(name, justify="right")
    if sweep.chip is not None:
        table.add_column(f"{sweep.chip}, ms", justify="right", no_wrap=True)
    for point in sweep.points:
        cells = [f"{point.recipe} *" if point.is_best else point.recipe]
        if point.error is not None:
            cells += ["failed"]
        else:
            cells += [f"{point.weight_bytes / 1e6:.2f} MB", f"{point.ratio:.3f}", _right(point), _drop(point)]
            cells.append("equal" if point.psnr is None else f"{point.psnr:.1f} dB")
            if point.latency_ms is not None:
                low, typical, high = point.latency_ms
                cells.append(f"{typical:.2g} ({low:.2g}–{high:.2g})")
        table.add_row(*cells)
    return Group(table, Text("\n".join(_remarks(sweep))))


def _right(point: Point) -> str:
    if point.right is not None:
        return f"{point.right} of {point.rows}"
    return "not defined" if point.score is None else f"{point.score:.4f}"


def _drop(point: Point) -> str:
    if point.drop is None:
        return "not defined"
    if point.drop_interval is None:
        return f"{point.drop:+.2f}"
    return f"{point.drop:+.2f} ({point.drop_interval[0]:.1f} to {point.drop_interval[1]:.1f})"


def _remarks(sweep: Sweep) -> list[str]:
    remarks = ["* no other recipe is both smaller and more accurate"]
    scored = [point for point in sweep.points if point.error is None]
    if scored:
        unit = drop_unit(scored[0].metric)
        remarks.append(f"drop in {unit} of {scored[0].metric} against {sweep.against}, with its 95 % interval")
    if sweep.chip is not None:
        remarks.append(
            f"latency on {sweep.chip}: an estimate with its range, from the program; nothing was run on a device"
        )
    remarks += [f"{point.recipe} failed: {point.error}" for point in sweep.points if point.error is not None]
    remarks += [f"{point.recipe}: {point.advice}" for point in sweep.points if point.advice]
    return remarks


def draw_sweep(sweep: Sweep, output: Path) -> tuple[Path, ...]:
    """Draws size against accuracy, the Pareto front marked, as SVG and PNG.

    Args:
        sweep: The sweep.
        output: The directory to write into.

    Returns:
        The files; none where fewer than two recipes have a score.

    Raises:
        OutputError: A file cannot be written.
    """
    points = [point for point in sweep.points if point.score is not None]
    if len(points) < 2:
        return ()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg, png = (output / name for name in PICTURES)
    with chart_style():
        figure = Figure(figsize=(8, 4.6), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        places = _draw(axes, points)
        figure.draw_without_rendering()  # where things stand on the page is settled by drawing
        _label(axes, points, places)
        with replacing_file(svg) as file:
            FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
        figure.set_dpi(_DPI)
        with replacing_file(png) as file:
            FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return svg, png


def _draw(axes: Axes, points: Sequence[Point]) -> dict[str, tuple[float, float]]:
    """Draws everything but the names; returns where each point stands."""
    scores = [100 * (point.score or 0.0) for point in points]
    # Recipes that break a model would press all others into one line: they stand on the lower edge.
    floor = max(min(scores), max(scores) - _MOST_SHOWN)
    places = {
        point.recipe: (point.weight_bytes / 1e6, max(score, floor))
        for point, score in zip(points, scores, strict=True)
    }
    front = sorted((p for p in points if p.is_best), key=lambda p: p.weight_bytes)
    # A front of two measures is a staircase: between two points only the smaller one's accuracy is to be had.
    axes.step(
        [places[p.recipe][0] for p in front],
        [places[p.recipe][1] for p in front],
        where="post",
        color=_FRONT,
        linewidth=1.2,
        alpha=0.6,
        label="Pareto front",
    )
    for point, score in zip(points, scores, strict=True):
        axes.plot(
            *places[point.recipe],
            "o" if score >= floor else "v",
            color=_FRONT if point.is_best else _OTHER,
            markersize=7 if point.is_best else 5.5,
            zorder=5,
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0, right=1.12 * max(x for x, _ in places.values()))
    axes.margins(y=0.16)
    axes.set_xlabel("weights, MB")
    axes.set_ylabel(f"{points[0].metric}, %")
    axes.set_title(
        f"Size against {points[0].metric}, {points[0].rows} rows, portable runtime", loc="left", fontsize=11
    )
    axes.legend(frameon=False, loc="lower right")
    return places


def _label(axes: Axes, points: Sequence[Point], places: dict[str, tuple[float, float]]) -> None:
    """Names the points, each beside its own and clear of the others' names."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text as TextArtist

    taken: list[Any] = []
    dots = [axes.transData.transform(place) for place in places.values()]
    for point in sorted(points, key=lambda p: (not p.is_best, p.weight_bytes)):
        best: tuple[int, Any, Any] | None = None
        for x, y, side in _OFFSETS:
            score = 100 * (point.score or 0.0)
            is_below = score < places[point.recipe][1]
            text = axes.annotate(
                f"{point.recipe}, {score:.1f} %" if is_below else point.recipe,
                places[point.recipe],
                xytext=(x, y),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8.5 if point.is_best else 7.5,
                color=INK if point.is_best else "#6f6b63",
                arrowprops={"arrowstyle": "-", "color": _OTHER, "linewidth": 0.6} if abs(y) > 14 else None,
                path_effects=[withStroke(linewidth=3, foreground=PAPER)],
            )
            text.get_window_extent()  # moves the text to its place
            box = TextArtist.get_window_extent(text)  # without the line to the point
            clashes = sum(box.overlaps(other) for other in taken) + sum(box.padded(6).contains(*dot) for dot in dots)
            outside = not all(axes.bbox.contains(edge, (box.y0 + box.y1) / 2) for edge in (box.x0, box.x1))
            if best is None or clashes + 2 * outside < best[0]:
                if best is not None:
                    best[1].remove()
                best = (clashes + 2 * outside, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        assert best is not None
        taken.append(best[2])


_OFFSETS = tuple(
    (side * (8 if abs(height) < 20 else 14), height, "left" if side > 0 else "right")
    for height in (9, -9, 0, 22, -22, 34, -34, 48, -48, 62, -62)
    for side in (1, -1)
)
"""Where a name may stand, in points from its own point, the nearest first; and the side on which it begins."""
