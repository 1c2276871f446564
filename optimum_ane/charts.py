"""How all pictures look: their colours and type, and the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

INK, PAPER, GRID = "#2b2b33", "#fbfaf7", "#d9d6cf"
"""Of pictures that stand alone: a panel of its own reads on light and dark pages alike."""

DEVICE_COLORS: Mapping[str, str] = {"ane": "#1f8a63", "conditional": "#dda22f", "fallback": "#bb4a5e"}
"""By predicted device. They differ in lightness as well, for readers who do not tell red from green."""

BLUE, ORANGE = "#3f72b8", "#d9902b"


@contextmanager
def chart_style(ink: str = INK, grid: str = GRID, *, text_as_paths: bool = True) -> Iterator[None]:
    """Sets how figures are drawn inside the block.

    Args:
        ink: Of text and axes.
        grid: Of lines behind the drawing.
        text_as_paths: Draw letters, so that an SVG looks the same everywhere; otherwise the reader's own font.
    """
    import matplotlib

    style: dict[Any, Any] = {
        "svg.hashsalt": "optimum-ane",  # or each drawing names its parts by chance
        "svg.fonttype": "path" if text_as_paths else "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"] if text_as_paths else ["system-ui", "DejaVu Sans"],
        "font.size": 10,
        "text.color": ink,
        "text.parse_math": False,  # names come from packages
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": grid,
        "grid.linewidth": 0.6,
    }
    with matplotlib.rc_context(style):
        yield
