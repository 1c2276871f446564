"""What a compression covered: each weight before and after, read from both packages and not from the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.compression.recipes import Recipe
from optimum_ane.compression.settings import Palettize, Quantize, Settings
from optimum_ane.compression.weights import StoredWeights, Weight, find_again
from optimum_ane.errors import PackageError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class CoveredWeight:
    """One weight, before and after.

    Attributes:
        name: In the program before.
        op_types: Of the operations that read it.
        shape: The extents.
        bytes_before: As it was stored.
        bytes_after: As it is stored now: indices or integers with their palettes, scales and masks.
        form: The format that it took, in words; None if it is as it was.
        skipped: Why it is as it was; None if it is not.
        psnr: dB of the decoded values against those before; None if it is as it was.
    """

    name: str
    op_types: tuple[str, ...]
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    form: str | None
    skipped: str | None
    psnr: float | None


@dataclass(frozen=True)
class Coverage:
    """What a recipe did to a package.

    Attributes:
        recipe: The recipe, as it describes itself.
        weights: Every float weight of the weight file.
        bytes_before: Of all weight files, as stored before.
        bytes_after: Of all weight files, as stored now.
        float16_bytes: What all weights take uncompressed in float16.
    """

    recipe: Mapping[str, Any]
    weights: tuple[CoveredWeight, ...]
    bytes_before: int
    bytes_after: int
    float16_bytes: int

    @property
    def ratio(self) -> float:
        """Bytes of the weights now against float16."""
        return self.bytes_after / max(1, self.float16_bytes)

    @property
    def compressed(self) -> tuple[CoveredWeight, ...]:
        """The weights that were compressed."""
        return tuple(weight for weight in self.weights if weight.form is not None)

    @property
    def skipped(self) -> tuple[CoveredWeight, ...]:
        """The weights that are as they were."""
        return tuple(weight for weight in self.weights if weight.form is None)

    def to_dict(self) -> dict[str, Any]:
        """As `export_report.json` holds it."""
        return {
            "recipe": dict(self.recipe),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "ratio_to_float16": self.ratio,
            "weights": [asdict(weight) for weight in self.weights],
        }


@dataclass(frozen=True)
class Attempt:
    """What one step of a recipe asked of one weight, and whether coremltools did it."""

    settings: Settings
    was_done: bool


Plan = Mapping[str, Sequence[Attempt]]
"""The attempts on each weight, in order, by its name before."""


def measure_coverage(source: Path, target: Path, recipe: Recipe, plan: Plan) -> Coverage:
    """Compares a package with what compression made of it.

    Args:
        source: The `.mlpackage` before.
        target: The `.mlpackage` after.
        recipe: What was applied.
        plan: What its steps asked for and did.

    Raises:
        PackageError: A weight is gone, or was not compressed and has other values.
    """
    before, after = StoredWeights(source), StoredWeights(target)
    found = find_again(before, after)
    return Coverage(
        recipe=recipe.describe(),
        weights=tuple(_compare(label, found[label], before, after, plan.get(label, ())) for label in before.weights),
        bytes_before=before.stored_bytes,
        bytes_after=after.stored_bytes,
        float16_bytes=before.float16_bytes,
    )


def join_coverages(coverages: Mapping[str, Coverage]) -> Coverage:
    """What a recipe did to all programs of a package; of several, their names stand before those of the weights.

    Args:
        coverages: By the program's name; one at least, of the same recipe.
    """
    first, *others = coverages.values()
    if not others:
        return first
    return Coverage(
        recipe=first.recipe,
        weights=tuple(
            replace(weight, name=f"{program}/{weight.name}")
            for program, coverage in coverages.items()
            for weight in coverage.weights
        ),
        bytes_before=sum(coverage.bytes_before for coverage in coverages.values()),
        bytes_after=sum(coverage.bytes_after for coverage in coverages.values()),
        float16_bytes=sum(coverage.float16_bytes for coverage in coverages.values()),
    )


def _compare(
    label: str, label_after: str, before: StoredWeights, after: StoredWeights, attempts: Sequence[Attempt]
) -> CoveredWeight:
    old, new = before.weights[label], after.weights[label_after]
    expected, actual = before.values(label), after.values(label_after)
    is_compressed = new.stored_bytes != old.stored_bytes
    if not is_compressed and not np.array_equal(expected, actual, equal_nan=True):
        raise PackageError(
            f"coremltools did not compress {old.name} and yet changed its values; leave it out of the recipe"
        )
    return CoveredWeight(
        name=label,
        op_types=old.op_types,
        shape=old.shape,
        bytes_before=old.stored_bytes,
        bytes_after=new.stored_bytes,
        form="; ".join(a.settings.describe() for a in attempts if a.was_done) if is_compressed else None,
        skipped=None if is_compressed else _reason(old, expected, attempts),
        psnr=_psnr(expected, actual) if is_compressed else None,
    )


def _psnr(expected: np.ndarray, actual: np.ndarray) -> float:
    """20·log10(max|expected| / RMSE), in dB."""
    reference = expected.astype(np.float64)
    error = math.sqrt(float(np.mean((reference - actual) ** 2)))
    peak = float(np.abs(reference).max())
    return math.inf if error == 0 else 20 * math.log10(max(peak, 1e-300) / error)


def _reason(weight: Weight, values: np.ndarray, attempts: Sequence[Attempt]) -> str:
    """Why coremltools left a weight as it is."""
    if not attempts:
        return f"the recipe leaves weights of {' and '.join(weight.op_types)} as they are"
    settings = attempts[0].settings
    if len(weight.shape) <= 1:
        return "a vector: coremltools compresses none"
    if weight.elements <= settings.weight_threshold:
        return f"{weight.elements} elements; the recipe's threshold is {settings.weight_threshold}"
    if weight.without_palette and all(isinstance(each.settings, Palettize) for each in attempts):
        return weight.without_palette
    if not np.isfinite(values).all():
        return "it holds infinity or NaN"
    indivisible = _indivisible(weight, settings)
    return indivisible or "coremltools left it as it is and gave no reason"


def _indivisible(weight: Weight, settings: Settings) -> str | None:
    """Names the extent that no whole number of groups or blocks fills."""
    if isinstance(settings, Palettize) and settings.is_grouped:
        axis = output_axis(weight) if settings.channel_axis is None else settings.channel_axis
        return _remainder(weight, axis, settings.group_size, "groups")
    if isinstance(settings, Quantize) and settings.granularity == "per_block":
        axis = 1 - output_axis(weight) if output_axis(weight) in (0, 1) else -2
        return _remainder(weight, axis, settings.block_size, "blocks")
    return None


def output_axis(weight: Weight) -> int:
    """The axis of the output channels, as coremltools takes it: the first, but for a transposed convolution."""
    return 1 if weight.op_types == ("conv_transpose",) else 0


def _remainder(weight: Weight, axis: int, size: int, what: str) -> str | None:
    extent = weight.shape[axis]
    return None if extent % size == 0 else f"axis {axis} of {extent} does not divide into {what} of {size}"


def print_coverage(coverage: Mapping[str, Any], console: Console) -> None:
    """Prints what became of the weights: a row for each format, and one for each reason to leave some as they were.

    Args:
        coverage: As `export_report.json` holds it.
        console: Where to.
    """
    from rich.table import Table

    recipe, weights = coverage["recipe"], coverage["weights"]
    table = Table(title=f"Weights after {recipe['name']}")
    table.add_column("what became of them")
    for name in ("weights", "before", "after", "least PSNR"):
        table.add_column(name, justify="right")
    for label, rows in _grouped(weights).items():
        ratios = [float(row["psnr"]) for row in rows if row["psnr"] is not None]
        table.add_row(
            label,
            str(len(rows)),
            _size(sum(row["bytes_before"] for row in rows)),
            _size(sum(row["bytes_after"] for row in rows)),
            f"{min(ratios):.1f} dB" if ratios else "",
        )
    console.print(table)
    for row in weights:
        if row["skipped"] is not None and row["bytes_before"] > coverage["bytes_before"] / 100:
            console.print(f"not compressed: {row['name']}, {_size(row['bytes_before'])}: {row['skipped']}")
    console.print(
        f"weights: {_size(coverage['bytes_before'])} → {_size(coverage['bytes_after'])}, "
        f"{coverage['ratio_to_float16']:.3f} of float16"
    )
    if recipe["advice"]:
        console.print(f"advice on {recipe['name']}: {recipe['advice']}")


def _grouped(weights: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for weight in weights:
        readers = ", ".join(weight["op_types"])
        label = f"{weight['form']} ({readers})" if weight["form"] else f"as it was: {weight['skipped']}"
        groups.setdefault(label, []).append(weight)
    return groups


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
