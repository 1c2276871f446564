"""The grids of MIL's resizing operations, word for word as its documentation has them, and numpy's interpolation."""

from __future__ import annotations

import numpy as np

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


def place(mode, i, n_in, n_out):
    """One place of the grid, word for word as MIL's documentation has it."""
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if n_out == 1:
            return (n_in - 1) / 2 if mode == "ALIGN_CORNERS" else 0
        spacing = (n_in - 1) / (n_out - 1)
        return min(n_in - 1, max(0, i * spacing))
    if mode == "DEFAULT":
        spacing = (n_in - n_in / n_out) / (n_out - 1) if n_out > 1 else 0
        return min(n_in - 1, max(0, i * spacing))
    if mode == "OFFSET_CORNERS":
        delta = max(1, n_in - 1) / n_out
        spacing = ((n_out - 1) * delta) / (n_out - 1) if n_out > 1 else 0
        return min(n_in - 1, max(0, 0.5 * delta + i * spacing))
    spacing = n_in / n_out
    return min(n_in - 1, max(0, i * spacing + 0.5 * spacing - 0.5))


def interpolated(x, axis, places):
    """Samples an axis in float64 with numpy's own interpolation."""
    return np.apply_along_axis(lambda lane: np.interp(places, np.arange(lane.size), lane), axis, x.astype(np.float64))


def grid_resized(x, mode, height, width):
    for axis, size in ((-2, height), (-1, width)):
        x = interpolated(x, axis, [place(mode, i, x.shape[axis], size) for i in range(size)])
    return x
