"""A recipe applied to an `.mlpackage`: coremltools' passes in order, then a look at what they did."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimum_ane.analysis.operations import read_program
from optimum_ane.compression.coverage import Attempt, Coverage, measure_coverage
from optimum_ane.compression.kmeans import palette, uniform_palette
from optimum_ane.compression.recipes import Recipe, Step
from optimum_ane.compression.round_trip import gathers_as_they_are
from optimum_ane.compression.settings import LutFunction, Palettize, Settings
from optimum_ane.compression.targets import target_of_program
from optimum_ane.compression.weights import Weight, find_again, read_weights
from optimum_ane.errors import CompressionError
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.quiet import quiet, writing

if TYPE_CHECKING:
    import coremltools as ct

Progress = Callable[[int, int], None]
"""Is called with (weights done, weights in all)."""


def compress_mlpackage(source: Path, target: Path, recipe: Recipe, progress: Progress | None = None) -> Coverage:
    """Compresses the weights of a package.

    The same package and recipe give the same weights every time.

    Args:
        source: The `.mlpackage` of an ML Program of one function, not compressed yet.
        target: The `.mlpackage` to write; its directory exists, it does not.
        recipe: What to do.
        progress: Is called as palettes are found, which is what takes time.

    Returns:
        What became of each weight.

    Raises:
        CompressionError: The recipe does not fit: the package is for an older system or compressed already, or a
            name in the recipe matches no weight.
        PackageError: The package is damaged, or the result is not what was asked for.
    """
    import coremltools as ct

    check_source(source, recipe)
    before = read_weights(read_program(source))
    with quiet(), writing():
        model = ct.models.MLModel(str(source), skip_model_load=True)
    plan: dict[str, list[Attempt]] = {name: [] for name in before}
    ticks = _Ticks(recipe, before, progress)
    current = before
    for step in recipe.steps:
        asked = _asked(step, before, current)
        model = _apply(model, step, {current[name].name: settings for name, settings in asked.items()}, ticks)
        now = find_again(before, read_weights(read_program(model.package_path)), target)
        for name, settings in asked.items():
            plan[name].append(Attempt(settings, now[name].stored_bytes != current[name].stored_bytes))
        current = now
    with quiet(), writing():
        model.save(str(target))
    return measure_coverage(source, target, recipe, plan)


def check_source(source: Path, recipe: Recipe) -> None:
    """Refuses, before any work, a package that a recipe cannot be applied to.

    Raises:
        CompressionError: It is for an older system than the recipe needs, or compressed already, or a name in the
            recipe matches none of its weights.
        PackageError: It is damaged, or holds several functions.
    """
    spec = Package(source).spec
    recipe.check_target(target_of_program(spec, str(source)), "the package")
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type.startswith("constexpr_") and operation.type != "constexpr_cast":
            raise CompressionError(
                f"{source} is compressed already ({operation.outputs[0].name}: {operation.type}); compress the "
                "package that it was made from"
            )
    names = list(read_weights(read_program(source)))
    for step in recipe.steps:
        for pattern in step.weights:
            if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
                raise CompressionError(
                    f"recipe {recipe.name}: {pattern!r} matches none of the {len(names)} weights of {source}; "
                    f"one is called {max(names, key=len, default='nothing')!r}"
                )


def _asked(step: Step, before: dict[str, Weight], current: dict[str, Weight]) -> dict[str, Settings]:
    """What a step is to do to which weight, by its name before."""
    asked = {}
    for name, weight in before.items():
        settings = step.settings_for(name, weight.op_types)
        is_compressed = current[name].stored_bytes != weight.stored_bytes
        if settings is not None and is_compressed == step.joint:
            asked[name] = settings
    return asked


def _apply(model: ct.models.MLModel, step: Step, asked: dict[str, Settings], ticks: _Ticks) -> ct.models.MLModel:
    """Runs one of coremltools' passes over the weights that are asked for, by name."""
    from coremltools.optimize import coreml as cto

    if not asked:
        return model
    passes = {
        "palettize": cto.palettize_weights,
        "quantize": cto.linear_quantize_weights,
        "prune": cto.prune_weights,
    }
    # By name only: by type of operation, coremltools refuses a weight that two types of operation read.
    configs = {name: settings.config(ticks.lut_function(settings, step.joint)) for name, settings in asked.items()}
    with quiet(), writing(), gathers_as_they_are():
        return passes[step.kind](model, cto.OptimizationConfig(op_name_configs=configs), joint_compression=step.joint)


class _Ticks:
    """Counts the palettes as coremltools asks for them, one for each weight or group of channels."""

    def __init__(self, recipe: Recipe, weights: dict[str, Weight], progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0
        for step in recipe.steps:
            for weight in weights.values():
                settings = step.settings_for(weight.name, weight.op_types)
                if isinstance(settings, Palettize) and weight.elements > settings.weight_threshold:
                    self._total += weight.elements

    def lut_function(self, settings: Settings, joint: bool) -> LutFunction:
        """Makes the function that coremltools calls for a palette."""

        def find(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert isinstance(settings, Palettize)
            made = _palette_of(values, settings, joint)
            self._done = min(self._total, self._done + values.size)
            if self._progress is not None:
                self._progress(self._done, self._total)
            return made

        return find


def _palette_of(values: np.ndarray, settings: Palettize, joint: bool) -> tuple[np.ndarray, np.ndarray]:
    if settings.mode == "uniform":
        return uniform_palette(values, settings.nbits)
    if not joint:
        return palette(values, settings.nbits)
    # Zeros lie outside the mask: what they are mapped to is never read, and they must not draw entries to themselves.
    flat = values.reshape(-1)
    kept = flat != 0
    indices = np.zeros(flat.size, np.uint8)
    entries, indices[kept] = palette(flat[kept], settings.nbits)
    return entries, indices
