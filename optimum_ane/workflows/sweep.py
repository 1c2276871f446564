"""A sweep as the command line asks for it: from names to files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.cost import estimate
from optimum_ane.analysis.operations import read_program
from optimum_ane.analysis.partition import partition
from optimum_ane.analysis.residency import place
from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.compression.compress import check_sources
from optimum_ane.compression.recipes import Recipe, get_recipe, recipe_names
from optimum_ane.compression.sweep import SWEEP_JSON, Estimate, Point, Sweep, sweep, swept_program
from optimum_ane.compression.sweep_report import draw_sweep, print_sweep
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.deployment_targets import is_older
from optimum_ane.package.layout import package_directory
from optimum_ane.package.manifest import Manifest
from optimum_ane.screen import make_console, say


def run_sweep(
    package: str | Path,
    spec: DatasetSpec,
    *,
    recipes: Sequence[str] | None = None,
    output: str | Path = "sweep",
    chip: str | None = None,
    reference: str | None = None,
    with_reference: bool = True,
    trust_remote_code: bool = False,
) -> Sweep:
    """Sweeps, prints the table, and writes JSON and pictures.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        spec: The dataset.
        recipes: Names and paths of YAML files; None takes all that ship and that the package's target reads.
        output: Directory for the files.
        chip: Estimate latency on this chip; None does without.
        reference: Hub id or directory of the original; None takes the source that the package names.
        with_reference: Whether drops are measured against the original; else against the package as it is.
        trust_remote_code: Whether code from the original's repository may run.

    Raises:
        CompressionError: A recipe is not known, two have one name, or the package has several programs.
        ANEError: The package, the dataset or the original cannot be used.
    """
    directory, output = package_directory(package), Path(output).expanduser()
    manifest = Manifest.read(directory)
    program = swept_program(directory, manifest)
    chosen = _fitting(manifest) if recipes is None else [get_recipe(name) for name in recipes]
    for recipe in chosen[:1]:
        check_sources([directory / program.path], recipe)
    scorer = AccuracyScorer(
        directory, spec, reference=reference, with_reference=with_reference, trust_remote_code=trust_remote_code
    )
    console = make_console(file=sys.stderr)
    done, count = 0, len(chosen) + 1

    def tell(point: Point) -> None:
        nonlocal done
        done += 1
        state = "failed" if point.error is not None else f"{point.ratio:.3f} of the weights"
        console.print(f"[{done}/{count}] {point.recipe:<34} {state}")

    found = sweep(
        directory,
        chosen,
        output,
        scorer.report,
        scored_by=scorer.name,
        against=scorer.against,
        estimate=None if chip is None else _estimator(chip),
        chip=chip,
        on_point=tell,
    )
    files = (output / SWEEP_JSON, *draw_sweep(found, output))
    print_sweep(found)
    say(f"written: {', '.join(map(str, files))}")
    return found


def _fitting(manifest: Manifest) -> list[Recipe]:
    """The recipes that ship and that the package's deployment target reads."""
    recipes = [get_recipe(name) for name in recipe_names()]
    return [recipe for recipe in recipes if not is_older(manifest.form.target, recipe.minimum_deployment_target)]


def _estimator(name: str) -> Estimate:
    chip = get_chip(name)

    def latency(mlpackage: Path) -> tuple[float, float, float]:
        program = read_program(mlpackage)
        cost = estimate(program, partition(place(program, chip)), chip)
        return cost.low_ms, cost.typical_ms, cost.high_ms

    return latency
