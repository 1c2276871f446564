"""What a recipe makes of a weight of which only the shape is known: the bytes that it takes, and its stored type."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optimum_ane.compression.recipes import Recipe
from optimum_ane.compression.settings import Palettize, Prune, Quantize, Settings

_FLOAT16 = 2
"""Bytes of an element as it is, and of each number of a palette or a scale."""


@dataclass(frozen=True)
class PlannedWeight:
    """A weight as it will be stored.

    Attributes:
        bytes: With its palettes, scales, zero points and masks.
        dtype: `"int8"` or `"int4"` of integers; None of palettes, and of what stays as it is.
    """

    bytes: int
    dtype: str | None = None


def planned_weight(recipe: Recipe, name: str, shape: tuple[int, ...], op_types: tuple[str, ...]) -> PlannedWeight:
    """Says what a recipe makes of a float16 weight; what it leaves alone stays as it is.

    Args:
        recipe: The recipe.
        name: The weight's name.
        shape: Its extents, the output channels or the rows of a table first.
        op_types: MIL types of the operations that read it.
    """
    elements = math.prod(shape)
    stored = PlannedWeight(_FLOAT16 * elements)
    before: Settings | None = None
    for step in recipe.steps:
        settings = step.settings_for(name, op_types, (name,))
        if settings is None or step.joint is not (before is not None) or not _takes(settings, shape, elements):
            continue
        if isinstance(before, Palettize):
            # Its palettes are stored as integers, over one scale.
            entries = _palettes(before, shape) * 2**before.nbits
            saved = entries * (_FLOAT16 - settings.bits / 8) - _FLOAT16
            stored = PlannedWeight(round(stored.bytes - saved))
        else:
            stored = _stored(settings, shape, elements, before)
        before = settings
    return stored


def _takes(settings: Settings, shape: tuple[int, ...], elements: int) -> bool:
    """Tells whether coremltools compresses a weight so: vectors, small ones and indivisible ones it passes by."""
    if len(shape) < 2 or elements <= settings.weight_threshold:
        return False
    if isinstance(settings, Palettize) and settings.is_grouped:
        return shape[settings.channel_axis or 0] % settings.group_size == 0
    if isinstance(settings, Quantize) and settings.granularity == "per_block":
        return shape[1] % settings.block_size == 0
    return True


def _palettes(settings: Palettize, shape: tuple[int, ...]) -> int:
    return shape[settings.channel_axis or 0] // settings.group_size if settings.is_grouped else 1


def _stored(settings: Settings, shape: tuple[int, ...], elements: int, before: Settings | None) -> PlannedWeight:
    """The bytes of a form; of a weight that was pruned before, that is what is kept of it, and a bit an element."""
    mask, values = 0.0, float(elements)
    if isinstance(before, Prune):
        mask, values = elements / 8, elements * (1 - before.target_sparsity)
    if isinstance(settings, Prune):
        return PlannedWeight(round(elements / 8 + _FLOAT16 * elements * (1 - settings.target_sparsity)))
    if isinstance(settings, Palettize):
        entries = _palettes(settings, shape) * 2**settings.nbits
        return PlannedWeight(round(mask + values * settings.nbits / 8 + entries * _FLOAT16))
    scales = {
        "per_tensor": 1,
        "per_channel": shape[0],
        "per_block": elements // settings.block_size,
    }[settings.granularity]
    zero_points = 0 if settings.mode == "linear_symmetric" else scales * settings.bits / 8
    size = round(mask + values * settings.bits / 8 + scales * _FLOAT16 + zero_points)
    return PlannedWeight(size, f"int{settings.bits:g}")
