"""A recipe applied to programs: coremltools' passes in order, then a look at what they did."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimum_ane.compression.coverage import Attempt, Coverage, join_coverages, measure_coverage
from optimum_ane.compression.feed_forward import is_feed_forward
from optimum_ane.compression.kmeans import palette, uniform_palette
from optimum_ane.compression.recipes import Recipe, Step
from optimum_ane.compression.round_trip import programs_as_they_are
from optimum_ane.compression.settings import LutFunction, Palettize, Settings
from optimum_ane.compression.targets import target_of_program
from optimum_ane.compression.weight_store import WeightStore, quantized_once
from optimum_ane.compression.weights import StoredWeights, find_again
from optimum_ane.errors import CompressionError
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.multifunction import MAIN, functions_of, merge_functions, split_function
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.targets.coreml.temporary_files import temporary_files_in

if TYPE_CHECKING:
    import coremltools as ct

Progress = Callable[[int, int], None]
"""Is called with (weights done, weights in all)."""


def compress_mlpackage(source: Path, target: Path, recipe: Recipe, progress: Progress | None = None) -> Coverage:
    """Compresses the weights of one `.mlpackage`; see `compress_mlpackages`.

    Args:
        source: The `.mlpackage` of an ML Program, not compressed yet.
        target: The `.mlpackage` to write; its directory exists, it does not.
        recipe: What to do.
        progress: Is called as palettes are found, which is what takes time.

    Returns:
        What became of each weight.
    """
    return compress_mlpackages({source.stem: (source, target)}, recipe, progress)


def compress_mlpackages(
    programs: Mapping[str, tuple[Path, Path]], recipe: Recipe, progress: Progress | None = None
) -> Coverage:
    """Compresses the weights of a package's programs.

    The same programs and recipe give the same weights every time.

    coremltools compresses programs of one function. Where there are several, each is taken out, compressed, and merged
    with the others again. What they share is compressed in the same way for each, so that it is stored once; its
    palettes are found once, those that programs share as well.

    Args:
        programs: For each program the `.mlpackage`, not compressed yet, and the `.mlpackage` to write, whose directory
            exists.
        recipe: What to do. A weight is named as in the first function that reads it.
        progress: Is called as palettes are found, which is what takes time.

    Returns:
        What became of each weight; of several programs, their names stand before those of the weights.

    Raises:
        CompressionError: The recipe does not fit: a program is for an older system or compressed already, or a
            name in the recipe matches no weight.
        PackageError: A program is damaged, or the result is not what was asked for.
    """
    check_sources([source for source, _ in programs.values()], recipe)
    stored = {name: StoredWeights(source) for name, (source, _) in programs.items()}
    is_shared = len(stored) > 1 or any(package.functions != (MAIN,) for package in stored.values())
    coverages = {}
    scratch = next(target.parent for _, target in programs.values())
    with tempfile.TemporaryFile(dir=scratch) as file:
        palettes = _Palettes(recipe, stored.values(), WeightStore(file) if is_shared else None, progress)
        for name, (source, target) in programs.items():
            plan = _compress_program(source, target, recipe, stored[name], palettes)
            coverages[name] = measure_coverage(source, target, recipe, plan)
    return join_coverages(coverages)


def _compress_program(
    source: Path, target: Path, recipe: Recipe, package: StoredWeights, palettes: _Palettes
) -> dict[str, list[Attempt]]:
    """Compresses one program: where it has several functions each by itself, merged again; says what was tried."""
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix="functions-") as name,
        temporary_files_in(Path(name)),
    ):
        if package.functions == (MAIN,):
            return _compress_function(source, target, recipe, package, MAIN, palettes)
        plan: dict[str, list[Attempt]] = {}
        compressed = {}
        folder = Path(name)
        for function in package.functions:
            single = folder / f"{function}.mlpackage"
            compressed[function] = folder / f"{function}-compressed.mlpackage"
            split_function(source, function, single)
            attempts = _compress_function(single, compressed[function], recipe, package, function, palettes)
            plan = attempts | plan
            shutil.rmtree(single)
        merge_functions(compressed, target, default=package.functions[0])
        return plan


def _compress_function(
    source: Path, target: Path, recipe: Recipe, package: StoredWeights, function: str, palettes: _Palettes
) -> dict[str, list[Attempt]]:
    """Compresses a package of one function.

    Args:
        source: The package of one function.
        target: The package to write.
        recipe: What to do.
        package: The weights of the whole package, which say what each is read by in all functions.
        function: Which of its functions this is.
        palettes: Finds palettes.

    Returns:
        What was tried on each weight that the function reads, by its label in the whole package.
    """
    import coremltools as ct

    before = StoredWeights(source)
    own = package.in_package_of(function, before)
    plan: dict[str, list[Attempt]] = {label: [] for label in own}
    with quiet(), writing():
        model = ct.models.MLModel(str(source), skip_model_load=True)
    now, places = before, {label: label for label in before.weights}
    for step in recipe.steps:
        asked: dict[str, Settings] = {}
        for label, place in own.items():
            weight = package.weights[label]
            settings = step.settings_for(weight.name, weight.op_types, weight.readers)
            is_compressed = now.weights[places[place]].stored_bytes != weight.stored_bytes
            if settings is not None and weight.without_palette and isinstance(settings, Palettize):
                plan[label].append(Attempt(settings, False))
            elif settings is not None and is_compressed == step.joint:
                asked[label] = settings
        by_name = {now.weights[places[own[label]]].name: settings for label, settings in asked.items()}
        compressed = _apply(model, step, by_name, palettes)
        after = StoredWeights(Path(compressed.package_path))
        found = find_again(before, after)
        for label, settings in asked.items():
            bytes_before = now.weights[places[own[label]]].stored_bytes
            bytes_after = after.weights[found[own[label]]].stored_bytes
            plan[label].append(Attempt(settings, bytes_after != bytes_before))
        if model is not compressed and model.is_temp_package:
            shutil.rmtree(model.package_path)  # coremltools would keep it until Python ends
        model, now, places = compressed, after, found
    with quiet(), writing():
        model.save(str(target))
    if model.is_temp_package:
        shutil.rmtree(model.package_path)
    del model
    gc.collect()  # coremltools' programs hold all weights, in circles of references
    return plan


def check_sources(sources: Collection[Path], recipe: Recipe) -> None:
    """Refuses, before any work, a package that a recipe cannot be applied to.

    Args:
        sources: Its programs.
        recipe: The recipe.

    Raises:
        CompressionError: A program is for an older system than the recipe needs, or compressed already, or what the
            recipe names matches no weight of any of them.
        PackageError: A program is damaged.
    """
    for source in sources:
        _check_program(source, recipe)
    weights = [weight for source in sources for weight in StoredWeights(source).weights.values()]
    names = {weight.name for weight in weights}
    where = " and ".join(map(str, sources))
    for step in recipe.steps:
        for pattern in step.weights:
            if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
                raise CompressionError(
                    f"recipe {recipe.name}: {pattern!r} matches none of the {len(names)} weights of {where}; "
                    f"one is called {max(names, key=len, default='nothing')!r}"
                )
        if step.feed_forward is not None and not any(is_feed_forward(each.name, each.readers) for each in weights):
            raise CompressionError(
                f"recipe {recipe.name}: none of the {len(names)} weights of {where} is a feed-forward layer's by its "
                "name; take palette4-g16, or write a recipe that names them"
            )


def _check_program(source: Path, recipe: Recipe) -> None:
    spec = Package(source).spec
    recipe.check_target(target_of_program(spec, str(source)), "the package")
    for name in functions_of(spec):
        function = spec.mlProgram.functions[name]
        for operation in function.block_specializations[function.opset].operations:
            if operation.type.startswith("constexpr_") and operation.type != "constexpr_cast":
                raise CompressionError(
                    f"{source} is compressed already ({operation.outputs[0].name}: {operation.type}); compress the "
                    "package that it was made from"
                )


def _apply(
    model: ct.models.MLModel, step: Step, asked: Mapping[str, Settings], palettes: _Palettes
) -> ct.models.MLModel:
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
    configs = {name: settings.config(palettes.lut_function(settings, step.joint)) for name, settings in asked.items()}
    with quiet(), writing(), programs_as_they_are(), quantized_once(palettes.store):
        return passes[step.kind](model, cto.OptimizationConfig(op_name_configs=configs), joint_compression=step.joint)


class _Palettes:
    """Finds palettes as coremltools asks for them, one for each weight or group of channels, and counts them.

    Attributes:
        store: What was found for other functions and programs; None where there is one.
    """

    def __init__(
        self,
        recipe: Recipe,
        packages: Collection[StoredWeights],
        store: WeightStore | None,
        progress: Progress | None,
    ) -> None:
        self.store = store
        self._progress = progress
        self._done = 0
        self._total = 0
        for step in recipe.steps:
            for weight in (
                package.weights[label]
                for package in packages
                for names in package.labels.values()
                for label in set(names.values())
            ):
                settings = step.settings_for(weight.name, weight.op_types, weight.readers)
                if isinstance(settings, Palettize) and weight.elements > settings.weight_threshold:
                    self._total += weight.elements

    def lut_function(self, settings: Settings, joint: bool) -> LutFunction:
        """Makes the function that coremltools calls for a palette."""

        def find(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert isinstance(settings, Palettize)
            if self.store is None:
                entries, indices = _palette_of(values, settings, joint)
            else:
                how = ("palettize", settings.nbits, settings.mode, joint)
                found = self.store.get(values, how, lambda: _palette_of(values, settings, joint))
                entries, indices = (array for array in found if array is not None)
            self._done = min(self._total, self._done + values.size)
            if self._progress is not None:
                self._progress(self._done, self._total)
            return entries, indices

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
