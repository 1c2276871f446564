"""The card's picture: accuracy lost against size, or where the operations are predicted to run; the way of images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optimum_ane.charts import BLUE, DEVICE_COLORS, INK, PAPER, chart_style
from optimum_ane.hub.card_functions import VERDICTS, named_functions, operations_by_verdict
from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.card_values import drop_interval
from optimum_ane.hub.input_picture import HEIGHT, draw_input, takes_images
from optimum_ane.hub.markdown import plain
from optimum_ane.package.metric_format import drop_name, drop_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MAX_NAME = 28


def caption(packages: Sequence[CardPackage]) -> str | None:
    """What the picture shows, for those who do not see it; None where there is nothing to show."""
    parts = []
    if packages and takes_images(_main(packages).manifest):
        parts.append("What becomes of an image, and who does it")
    if _scored(packages):
        parts.append("Size of each package, and what it loses in accuracy")
    elif _placed(packages):
        parts.append("Operations by the device that they are predicted to run on")
    return "; ".join(parts) or None


def make_picture(packages: Sequence[CardPackage]) -> bytes | None:
    """Draws the picture as SVG, on a panel of its own, so that it reads in light and dark alike.

    Args:
        packages: The packages of one repository.

    Returns:
        The same bytes for the same packages and the same matplotlib; None where there is nothing to show.
    """
    scored, placed = _scored(packages), _placed(packages)
    heights = [HEIGHT] if packages and takes_images(_main(packages).manifest) else []
    if scored or placed:
        heights.append(3.6 if scored else 1.5 + 0.42 * len(placed))
    if not heights:
        return None
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with chart_style():
        figure = Figure(figsize=(7.2, sum(heights)), facecolor=PAPER, layout="constrained")
        parts = list(figure.subfigures(len(heights), height_ratios=heights, squeeze=False)[:, 0])
        for part in parts:
            part.set_facecolor(PAPER)
        if scored or placed:
            axes = parts.pop().add_subplot(facecolor=PAPER)
            if scored:
                _draw_scores(axes, scored)
            else:
                _draw_devices(axes, placed)
        if parts:
            draw_input(parts[0].add_subplot(), _main(packages).manifest)
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _main(packages: Sequence[CardPackage]) -> CardPackage:
    """The package that a card describes."""
    return min(packages, key=lambda package: package.path)


def _scored(packages: Sequence[CardPackage]) -> list[CardPackage]:
    """Packages that can be compared: those with a size and a drop in the metric that the first of them has."""
    measured = [
        package
        for package in sorted(packages, key=lambda package: package.path)
        if package.accuracy is not None
        and package.number("accuracy", "drop") is not None
        and package.number("sizes", "package") is not None
    ]
    same = [package for package in measured if _metric(package) == _metric(measured[0])]
    return same if len(same) > 1 else []


def _placed(packages: Sequence[CardPackage]) -> list[tuple[str, dict[str, float]]]:
    """How many operations are predicted to run where, by package; of one package by function, if it has several."""
    ordered = sorted(packages, key=lambda package: package.path)
    functions = [name for name, _ in named_functions(ordered[0].manifest)]
    if len(ordered) == 1 and len(functions) > 1:
        counts = [(name, operations_by_verdict(ordered[0], name)) for name in functions]
    else:
        counts = [(_name(package), operations_by_verdict(package)) for package in ordered]
    return [(name, own) for name, own in counts if sum(own.values()) > 0]


def _metric(package: CardPackage) -> tuple[str, str]:
    accuracy = package.accuracy or {}
    return str(accuracy.get("dataset")), str(accuracy.get("primary_metric"))


def _name(package: CardPackage) -> str:
    name = plain(package.path or package.manifest.compression or package.manifest.form.precision)
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _draw_scores(axes: Axes, packages: Sequence[CardPackage]) -> None:
    dataset, metric = map(plain, _metric(packages[0]))
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for package in packages:
        megabytes = (package.number("sizes", "package") or 0.0) / 1e6
        drop = package.number("accuracy", "drop") or 0.0
        interval = drop_interval(package)
        if interval is not None:
            axes.plot([megabytes, megabytes], interval, color=BLUE, linewidth=2, alpha=0.45, solid_capstyle="round")
        axes.plot([megabytes], [drop], "o", color=BLUE, markersize=7)
        axes.annotate(
            _name(package), (megabytes, drop), xytext=(8, 6), textcoords="offset points", fontsize=9, color=INK
        )
    axes.margins(x=0.16, y=0.18)
    axes.set_xlim(left=0)
    axes.grid()
    axes.set_xlabel("size on disk, MB")
    axes.set_ylabel(f"{drop_name(metric)} in {metric}, {drop_unit(metric)}")
    axes.set_title(f"Lost on {dataset}, with its confidence interval", loc="left", fontsize=11)


def _draw_devices(axes: Axes, placed: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    places, most = range(len(placed)), max(sum(own.values()) for _, own in placed)
    starts = [0.0] * len(placed)
    for verdict, device in VERDICTS.items():
        counts = [own.get(verdict, 0.0) for _, own in placed]
        if not any(counts):
            continue
        label = f"{device}: {counts[0]:.0f}" if len(placed) == 1 else device
        bars = axes.barh(
            places, counts, left=starts, height=0.62, color=DEVICE_COLORS[verdict], label=label, edgecolor=PAPER
        )
        axes.bar_label(
            bars,
            labels=[f"{count:.0f}" if count >= 0.04 * most else "" for count in counts],
            label_type="center",
            color="white",
            fontsize=9,
        )
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
    axes.set_yticks(places, [name for name, _ in placed])
    axes.invert_yaxis()
    axes.set_xlabel("operations, predicted from the program; not measured on a device")
    axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
