"""Recipes that are made for one package, from their names and options."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.compression.activations import INT8_ACTIVATIONS
from optimum_ane.compression.calibration_data import (
    DEFAULT_ROWS,
    Calibration,
    calibration_of_dataset,
    calibration_of_random_tokens,
)
from optimum_ane.compression.compress import check_sources
from optimum_ane.compression.mixed import MIXED, Budget, MixedRecipe, search_mixed
from optimum_ane.compression.recipes import Recipe, get_recipe
from optimum_ane.errors import CompressionError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.files import verify_files
from optimum_ane.package.layout import package_directory
from optimum_ane.package.manifest import FunctionEntry, Manifest, ProgramEntry
from optimum_ane.workflows.compress import Original

_PSNR_OF_ACTIVATIONS = 10.0
"""dB; the gate of `int8-activations` where none is given."""


@dataclass(frozen=True)
class Calibrating:
    """What the recipes that look at a package's values take.

    Attributes:
        dataset: File or Hub id of rows to run the package on; None takes those of the evaluation's dataset, and
            random tokens without one.
        samples: How many rows.
        max_size_ratio: `mixed`: bytes of the weights over those before.
        search_dir: `mixed`: where measurements are kept; None keeps them beside the output until it is written.
    """

    dataset: str | None = None
    samples: int = DEFAULT_ROWS
    max_size_ratio: float | None = None
    search_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuses a number of rows that cannot be."""
        if self.samples < 1:
            raise CompressionError(f"--calibration-samples is {self.samples}; take 1 or more")

    def refuse_useless(self, recipe: str) -> None:
        """Refuses options that say nothing to a recipe.

        Raises:
            CompressionError: One was given; the message names it.
        """
        given = {
            "--calibration-dataset": (self.dataset, (MIXED, INT8_ACTIVATIONS)),
            "--max-size-ratio": (self.max_size_ratio, (MIXED,)),
            "--search-dir": (self.search_dir, (MIXED,)),
        }
        for option, (value, recipes) in given.items():
            if value is not None and recipe not in recipes:
                raise CompressionError(f"{option} says nothing to the recipe {recipe}; leave it out")

    def rows(self, directory: Path, dataset: DatasetSpec | None) -> Calibration:
        """Makes the rows.

        Args:
            directory: The package.
            dataset: The evaluation's dataset, whose columns the calibration's have too.
        """
        if self.dataset is None and dataset is None:
            return calibration_of_random_tokens(directory, self.samples)
        spec = dataset or DatasetSpec(self.dataset or "")
        if self.dataset is not None:
            spec = replace(spec, dataset=self.dataset, config=None, split=None, max_samples=None)
        return calibration_of_dataset(directory, spec, self.samples)


@dataclass(frozen=True)
class Prepared:
    """A recipe that is ready to be applied.

    Attributes:
        recipe: The recipe.
        calibration: What activations of 8 bits are calibrated on; None leaves activations as they are.
        mixed: What the search for `mixed` found; None for other recipes.
        folder: Holds the search's measurements, of no use once the package is written; None where nothing does.
    """

    recipe: Recipe
    calibration: Calibration | None = None
    mixed: MixedRecipe | None = None
    folder: Path | None = None

    def finish(self, path: Path) -> None:
        """Writes a recipe that was found as YAML, and removes what only the search needed.

        Args:
            path: The file, which `optimum-cli ane compress` takes as a recipe.

        Raises:
            OutputError: It cannot be written.
        """
        if self.mixed is not None:
            write_file(path, self.mixed.text)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def prepare_recipe(
    package: str | Path,
    name: str,
    output: Path,
    calibrating: Calibrating,
    *,
    original: Original | None = None,
    dataset: DatasetSpec | None = None,
    max_accuracy_drop: float | None = None,
    quiet: bool = False,
) -> Prepared:
    """Finds the recipe of a name, making it for the package where it is one of those that are.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        name: `mixed`, `int8-activations`, another recipe's name, or the path of a YAML file.
        output: Where the package will be; measurements of a search are kept beside it.
        calibrating: What those two take; of no use to the others.
        original: What drops are measured against.
        dataset: Rows on which `mixed` measures the drop.
        max_accuracy_drop: Percentage points that `mixed` may lose on them.
        quiet: Show no progress.

    Raises:
        CompressionError: Options that say nothing to this recipe; a package of several programs or functions; or no
            choice of forms is within the budget.
        ANEError: The package, a dataset or the original cannot be used.
    """
    directory, original = package_directory(package), original or Original()
    calibrating.refuse_useless(name)
    if name not in (MIXED, INT8_ACTIVATIONS):
        return Prepared(get_recipe(name))
    budget = Budget(calibrating.max_size_ratio, max_accuracy_drop) if name == MIXED else None
    manifest = Manifest.read(directory)
    _refuse_several(directory, manifest, name)
    verify_files(directory, manifest)
    check_sources([directory / manifest.programs[0].path], get_recipe("int8"))
    calibration = calibrating.rows(directory, dataset)
    if budget is None:
        recipe = replace(get_recipe("int8"), name=INT8_ACTIVATIONS, psnr=_PSNR_OF_ACTIVATIONS)
        return Prepared(recipe, calibration)
    scorer = None
    if budget.accuracy_drop is not None and dataset is not None:
        scorer = AccuracyScorer(
            directory,
            dataset,
            reference=original.reference,
            with_reference=original.wanted != "no",
            trust_remote_code=original.hub.trust_remote_code,
        )
    folder = calibrating.search_dir or output.absolute().with_name(f"{output.name}.search")
    found = search_mixed(directory, folder, budget, calibration, scorer, quiet=quiet)
    path = folder / f"{MIXED}.yaml"
    write_file(path, found.text)
    return Prepared(get_recipe(path), mixed=found, folder=folder if calibrating.search_dir is None else None)


def _refuse_several(directory: Path, manifest: Manifest, recipe: str) -> None:
    """Refuses packages of several programs or functions: what is measured or calibrated is one function's values."""
    programs, functions = manifest.programs, manifest.functions
    if len(functions) > 1:
        what = f"programs {_names(programs)}" if len(programs) > 1 else f"functions {_names(functions)}"
        raise CompressionError(
            f"{directory} has the {what}; {recipe} is made for packages of one. Take another recipe (`optimum-cli ane "
            "compress --list`), or export one --sequence-length"
        )


def _names(entries: Sequence[ProgramEntry] | Sequence[FunctionEntry]) -> str:
    return ", ".join(entry.name for entry in entries)
