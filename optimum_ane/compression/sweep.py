"""Many recipes on one package: what each costs in accuracy and saves in bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import Recipe
from optimum_ane.compression.sensitivity import digest_of_package
from optimum_ane.errors import ANEError, CompressionError, OutputError
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.package.environment import tool_versions
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.manifest import Manifest, ProgramEntry
from optimum_ane.package.recovery import clean
from optimum_ane.package.report import measure_sizes
from optimum_ane.package.working_folders import WorkingFolder, partial_path
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.session import Session

AS_IT_IS = "as it is"
"""The name of the package as it is among the recipes."""

SWEEP_JSON = "sweep.json"
_FORMAT = 1


@dataclass(frozen=True)
class Point:
    """What one recipe came to.

    Attributes:
        recipe: Its name.
        error: Why there are no numbers; None where there are.
        weight_bytes: Of the weight file.
        ratio: The same over that of the package as it is.
        metric: Name of the primary metric.
        score: Its value, a fraction of 1; None where it is not defined.
        right: Rows that are right; None for regression.
        rows: Rows scored.
        drop: Percentage points (hundredths for correlations) lost; positive is worse.
        drop_interval: The interval of the drop at 95 % confidence.
        psnr: dB of the logits; None where they are equal.
        latency_ms: Low, typical and high estimate of one prediction, milliseconds; None without a chip.
        is_best: Whether no other recipe is both as small and as accurate, and better in one of the two.
        advice: What the recipe's author says against it.
    """

    recipe: str
    error: str | None = None
    weight_bytes: int = 0
    ratio: float = 0.0
    metric: str = ""
    score: float | None = None
    right: int | None = None
    rows: int = 0
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    psnr: float | None = None
    latency_ms: tuple[float, float, float] | None = None
    is_best: bool = False
    advice: str | None = None


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep, and what they were measured on.

    Attributes:
        points: In the order asked for, the package as it is first.
        against: What drops are measured against.
        chip: The chip of the latency estimates; None without.
    """

    points: tuple[Point, ...]
    against: str
    chip: str | None


Estimate = Callable[[Path], tuple[float, float, float]]
"""Estimates the latency of an `.mlpackage`: low, typical and high, in milliseconds."""


def sweep(
    directory: Path,
    recipes: Sequence[Recipe],
    output: Path,
    score: Callable[[Session], AccuracyReport],
    *,
    scored_by: str,
    against: str = "the original",
    estimate: Estimate | None = None,
    chip: str | None = None,
    on_point: Callable[[Point], None] = lambda point: None,
) -> Sweep:
    """Compresses a package with each recipe and scores the result in the portable runtime.

    Recipes that `sweep.json` in the output has numbers of are not run again, if it was made from the same package on
    the same dataset. A recipe that fails is noted with its error, and tried again by the next sweep.

    Args:
        directory: A package as `optimum-cli export ane` wrote it, not compressed.
        recipes: What to try; each name once.
        output: Directory for the three files; made if it is not there. The packages are not kept.
        score: Scores a loaded package.
        scored_by: Tells dataset and original of `score` from others.
        against: What drops are measured against, in words.
        estimate: Estimates latency.
        chip: The chip of the estimates.
        on_point: Is called after each recipe.

    Raises:
        CompressionError: Two recipes have one name, or the package has several programs.
        OutputError: The output cannot be written.
    """
    names = [AS_IT_IS, *(recipe.name for recipe in recipes)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CompressionError(f"two recipes are called {twice}; rename one file, or leave one out")
    mlpackage = directory / swept_program(directory, Manifest.read(directory)).path
    of = {
        "package": digest_of_package(mlpackage),
        "scored_by": scored_by,
        "chip": chip,
        "format": _FORMAT,
        "recipes": {recipe.name: _digest(recipe) for recipe in recipes},
    }
    size = measure_sizes(mlpackage)["weights"]
    try:
        output.mkdir(parents=True, exist_ok=True)
        clean(output)
        known = _known(output / SWEEP_JSON, of)
        done: dict[str, Point] = {}
        for name, recipe in zip(names, (None, *recipes), strict=True):
            point = known.get(name)
            if point is None or point.error is not None:
                point = _measured(mlpackage, name, recipe, output, score, size, estimate)
            done[name] = point
            # With the points that are known and not reached yet: a run that is killed loses nothing.
            _write(output / SWEEP_JSON, of, (known | done).values())
            on_point(point)
    except OSError as error:
        if isinstance(error, ANEError):
            raise
        raise OutputError(f"cannot write to {output}: {error.strerror or error}") from error
    points = mark_best(tuple(done.values()))
    _write(output / SWEEP_JSON, of, points)
    return Sweep(points, against, chip)


def swept_program(directory: Path, manifest: Manifest) -> ProgramEntry:
    """The one program of a package that is swept; it may have several functions.

    Raises:
        CompressionError: It has several programs.
    """
    if len(manifest.programs) > 1:
        names = ", ".join(program.name for program in manifest.programs)
        raise CompressionError(
            f"{directory} has the programs {names}; a sweep scores packages of one. Compress it with a recipe of your "
            "choice (`optimum-cli ane compress`)"
        )
    return manifest.programs[0]


def mark_best(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Marks the Pareto front of size and accuracy.

    Args:
        points: Any; those without a score are on no front.

    Returns:
        The same points. One is marked where no other has as few bytes and as high a score, and is better in one of
        the two.
    """

    def is_beaten(point: Point) -> bool:
        return any(
            other.weight_bytes <= point.weight_bytes
            and (other.score or 0.0) >= (point.score or 0.0)
            and (other.weight_bytes, other.score) != (point.weight_bytes, point.score)
            for other in points
            if other.score is not None
        )

    return tuple(replace(point, is_best=point.score is not None and not is_beaten(point)) for point in points)


def _measured(
    mlpackage: Path,
    name: str,
    recipe: Recipe | None,
    output: Path,
    score: Callable[[Session], AccuracyReport],
    size: int,
    estimate: Estimate | None,
) -> Point:
    """Makes the package of one recipe beside the output, scores it and throws it away; notes what goes wrong."""
    advice = None if recipe is None else recipe.advice
    with WorkingFolder(partial_path(output / name)) as folder:
        try:
            made = mlpackage
            if recipe is not None:
                made = folder / mlpackage.name
                compress_mlpackage(mlpackage, made, recipe)
            report = score(PortableSession(made))
            latency = None if estimate is None else estimate(made)
        except ANEError as error:
            return Point(name, error=str(error), advice=advice)
        weight_bytes = measure_sizes(made)["weights"]
    value = report.package.metrics[report.primary_metric]
    return Point(
        recipe=name,
        weight_bytes=weight_bytes,
        ratio=weight_bytes / max(1, size),
        metric=report.primary_metric,
        score=_finite(value),
        right=report.package.right,
        rows=report.rows,
        drop=_finite(report.drop),
        drop_interval=report.drop_interval,
        psnr=_finite(report.psnr),
        latency_ms=latency,
        advice=advice,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _digest(recipe: Recipe) -> str:
    """Of what a recipe does: its name may stay while its file changes."""
    return hashlib.sha256(repr(recipe.steps).encode()).hexdigest()[:16]


def _write(path: Path, of: Mapping[str, Any], points: Iterable[Point]) -> None:
    content = {"of": of, "versions": tool_versions(), "points": [asdict(point) for point in points]}
    write_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _known(path: Path, of: Mapping[str, Any]) -> dict[str, Point]:
    """The points of an earlier sweep of the same package on the same data, by name; none where the file is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = content["of"]
        if {**before, "recipes": None} != {**of, "recipes": None}:
            return {}
        points = [_point(entries) for entries in content["points"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    same = {name for name, digest in of["recipes"].items() if before["recipes"].get(name) == digest}
    return {point.recipe: point for point in points if point.recipe in same | {AS_IT_IS}}


def _point(entries: dict[str, Any]) -> Point:
    for name in ("drop_interval", "latency_ms"):
        if entries[name] is not None:
            entries[name] = tuple(float(number) for number in entries[name])
    return Point(**entries)
