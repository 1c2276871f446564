"""The part of a card's picture that shows what becomes of an image, and who does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_ane.charts import BLUE, INK, ORANGE, PAPER
from optimum_ane.hub.markdown import plain
from optimum_ane.package.manifest import FunctionEntry, ImageEntry, Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 1.6
"""Of the drawing, in inches, where it is 7.2 wide."""

_WIDTH, _GAP, _BOX = 10.0, 0.45, 1.0
_FITS = {"fill": "stretched", "crop": "scaled, middle cropped", "pad": "scaled, filled up", "": "resized"}


@dataclass(frozen=True)
class _Step:
    """A box: what there is, and a word on it."""

    title: str
    detail: str
    is_packages: bool


def takes_images(manifest: Manifest) -> bool:
    """Whether there is something to draw."""
    return manifest.image is not None and _function(manifest) is not None


def draw_input(axes: Axes, manifest: Manifest) -> None:
    """Draws the way of an image from an app into a package, on axes of its own.

    Args:
        axes: They lose their scales.
        manifest: Of a package that `takes_images`.
    """
    steps = _steps(manifest)
    axes.set_axis_off()
    axes.set_xlim(-0.05, _WIDTH + 0.05)
    axes.set_ylim(-0.55, 1.15)
    extent = (_WIDTH - _GAP * (len(steps) - 1)) / len(steps)
    for index, step in enumerate(steps):
        left = index * (extent + _GAP)
        _draw_box(axes, left, extent, step)
        if index:
            axes.annotate(
                "",
                (left, _BOX / 2),
                (left - _GAP, _BOX / 2),
                arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 1, "shrinkB": 1},
            )
    for is_packages, name in (
        (False, "your app, or Vision" if steps[2].is_packages else "your app"),
        (True, "this package"),
    ):
        own = [index for index, step in enumerate(steps) if step.is_packages == is_packages]
        left, right = own[0] * (extent + _GAP), own[-1] * (extent + _GAP) + extent
        color = _color(is_packages)
        axes.plot([left, right], [-0.14, -0.14], color=color, linewidth=2, solid_capstyle="butt")
        axes.text((left + right) / 2, -0.22, name, color=color, ha="center", va="top", fontsize=9)
    axes.set_title("What becomes of an image, and who does it", loc="left", fontsize=11)


def _draw_box(axes: Axes, left: float, extent: float, step: _Step) -> None:
    from matplotlib.patches import FancyBboxPatch

    color = _color(step.is_packages)
    box = FancyBboxPatch(
        (left + 0.06, 0.06),
        extent - 0.12,
        _BOX - 0.12,
        boxstyle="round,pad=0.06,rounding_size=0.08",
        facecolor=PAPER,
        edgecolor=color,
        linewidth=1.4,
    )
    axes.add_patch(box)
    middle = left + extent / 2
    axes.text(middle, 0.66, step.title, ha="center", va="center", fontsize=9.5, fontweight="bold")
    axes.text(middle, 0.3, step.detail, ha="center", va="center", fontsize=7.5)


def _color(is_packages: bool) -> str:
    return BLUE if is_packages else ORANGE


def _steps(manifest: Manifest) -> list[_Step]:
    image, function = manifest.image, _function(manifest)
    assert image is not None
    assert function is not None
    names = [plain(tensor.name) for tensor in function.outputs]
    shown = ", ".join(names[:2]) + ("…" if len(names) > 2 else "")
    normalized = image.normalization is not None
    return [
        _Step("any image", "PIL, CGImage, CVPixelBuffer", False),
        _Step(f"{image.height} × {image.width} pixels", _FITS.get(image.fit, "resized"), False),
        _Step(
            "normalised",
            f"from {image.normalization.layout} of 8 bits" if image.normalization else _tensor(image),
            normalized,
        ),
        _Step("model", shown, True),
    ]


def _tensor(image: ImageEntry) -> str:
    return f"to {image.channels} × {image.height} × {image.width} floats"


def _function(manifest: Manifest) -> FunctionEntry | None:
    """The function that takes the image."""
    functions: Sequence[FunctionEntry] = manifest.functions
    return next((each for each in functions if any(len(tensor.shape) == 4 for tensor in each.inputs)), None)
