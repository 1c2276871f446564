"""`mixed`: a recipe of its own for each package, more bits where they matter, within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import yaml

from optimum_ane.compression.calibration_data import Calibration, has_classes
from optimum_ane.compression.search import Choice, Options, frontier, smallest_accepted, within_size
from optimum_ane.compression.sensitivity import Measurements, digest_of_package, measure_options
from optimum_ane.compression.settings import Settings
from optimum_ane.compression.weight_formats import AS_IT_IS, FormattedWeights
from optimum_ane.errors import CompressionError
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.recovery import clean
from optimum_ane.package.report import measure_sizes
from optimum_ane.package.working_folders import WorkingFolder, partial_path
from optimum_ane.progress import Stages, row_progress
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant
from optimum_ane.runtimes.portable.variants import ChangedSession
from optimum_ane.runtimes.session import Session
from optimum_ane.targets.coreml.multifunction import MAIN, functions_of, split_function

MIXED = "mixed"
"""The name by which the command line asks for it."""


class Scorer(Protocol):
    """Tells what a variant of the package loses; `accuracy_scorer.AccuracyScorer` is one."""

    name: str
    """Tells dataset and original from others: what was measured under another name is measured again."""

    def drop(self, session: Session) -> float:
        """Returns the drop in percentage points; positive is worse, NaN not defined."""
        ...


@dataclass(frozen=True)
class Budget:
    """What a package may cost. One of the two at least.

    Attributes:
        size_ratio: Bytes of the weight file, over those of the package as it is.
        accuracy_drop: Percentage points of the primary metric, against the original.
    """

    size_ratio: float | None = None
    accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuses a budget that allows everything, or nothing."""
        if self.size_ratio is None and self.accuracy_drop is None:
            raise CompressionError("mixed needs a budget: --max-size-ratio 0.3, or --dataset with --max-accuracy-drop")
        if self.size_ratio is not None and not 0 < self.size_ratio <= 1:
            raise CompressionError(f"--max-size-ratio is {self.size_ratio}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class MixedRecipe:
    """What the search found.

    Attributes:
        text: The recipe as YAML, as `recipes.get_recipe` reads it.
        size_ratio: Predicted bytes of the weight file over those of the package as it is.
        bits: Mean bits of an element over the weights that were searched, palettes and scales included.
        formats: How many weights took each format.
        harm: Predicted; see `calibration.Distance`.
        calibration: What the package was run on.
        evaluations: How many choices were scored on the dataset.
    """

    text: str
    size_ratio: float
    bits: float
    formats: Mapping[str, int]
    harm: float
    calibration: str
    evaluations: int

    def describe(self) -> str:
        """One line for the screen."""
        formats = ", ".join(f"{count} {format}" for format, count in self.formats.items())
        return f"{self.bits:.2f} bits a weight ({formats}), calibrated on {self.calibration}"


def search_mixed(
    directory: Path,
    folder: Path,
    budget: Budget,
    calibration: Calibration,
    scorer: Scorer | None = None,
    *,
    quiet: bool = False,
) -> MixedRecipe:
    """Finds the format of each weight.

    First every weight is compressed alone, in every format, and the harm to the answers is measured. Then the formats
    are chosen that do the least harm for their bytes. Under a budget of accuracy the choices are tried from a
    bisection, each in the portable runtime with exactly the weights that the saved package will hold.

    Of a package of several functions the default one is run, and its size counts: that of the longest texts. What the
    recipe says of its weights holds for the others, which share them.

    Args:
        directory: A package as `optimum-cli export ane` wrote it, its weights not compressed.
        folder: Where measurements are kept: a run that was killed goes on from them.
        budget: What the result may cost.
        calibration: What the package is run on to measure harm.
        scorer: Measures the drop; needed for a budget of accuracy.
        quiet: Show no progress.

    Raises:
        CompressionError: No choice is within the budget.
        PackageError: The package is damaged.
    """
    if budget.accuracy_drop is not None and scorer is None:
        raise CompressionError("a budget of accuracy needs a dataset to measure it on; name one with --dataset")
    digest = digest_of_package(directory / MLPACKAGE)
    mlpackage = _default_function(directory / MLPACKAGE, folder, digest)
    library = FormattedWeights(mlpackage, folder / f"formats-{digest[:16]}")
    if not library.weights:
        raise CompressionError(f"{directory} holds no float weights that are large enough to compress")
    of_classes = has_classes(directory)
    measurements = Measurements(
        folder,
        {
            "package": digest,
            "calibration": calibration.digest,
            "classes": of_classes,
            "formats": {name: repr(format.settings) for name, format in library.formats.items()},
        },
    )
    with Stages(3 if budget.accuracy_drop is not None else 2, quiet) as stages:
        with stages.stage(f"compress in {len(library.formats)} formats"), row_progress("formats") as progress:
            for number, format in enumerate(library.formats):
                progress(number, len(library.formats))
                library.make(format)
        with stages.stage(f"measure {len(library.weights)} weights"), row_progress("predictions") as progress:
            options = measure_options(library, calibration, measurements, of_classes=of_classes, progress=progress)
        search = _Search(library, options, measure_sizes(mlpackage)["weights"])
        if budget.accuracy_drop is None:
            choice = search.within(budget.size_ratio)
        else:
            assert scorer is not None
            with stages.stage("search within the accuracy"):
                choice = search.accurate(budget, measurements, scorer)
    return search.result(choice, calibration.name)


def _default_function(mlpackage: Path, folder: Path, digest: str) -> Path:
    """The package itself if it has one function; else its default one as a package, made unless it is there."""
    functions = functions_of(Package(mlpackage).spec)
    if functions == (MAIN,):
        return mlpackage
    single = folder / f"function-{digest[:16]}.mlpackage"
    if not single.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
        with WorkingFolder(partial_path(single)) as scratch:
            split_function(mlpackage, functions[0], scratch / single.name)
            (scratch / single.name).rename(single)
    return single


class _Search:
    """The choice of formats, from measured options to a recipe."""

    def __init__(self, library: FormattedWeights, options: Options, file_size: int) -> None:
        self._library, self._options = library, options
        self._file_size = file_size
        # What is in the file besides: biases, norms, and its header.
        self._rest = file_size - sum(library.size(weight, AS_IT_IS) for weight in library.weights)
        self._evaluations = 0

    def within(self, ratio: float | None) -> Choice:
        """The least harm within a size."""
        assert ratio is not None
        choice = within_size(self._options, int(ratio * self._file_size) - self._rest)
        if choice is None:
            least = self._ratio(frontier(self._options)[0])
            raise CompressionError(
                f"even the smallest format of every weight takes {least:.3f} of the size, --max-size-ratio asks for "
                f"{ratio}; raise it"
            )
        return choice

    def accurate(self, budget: Budget, measurements: Measurements, scorer: Scorer) -> Choice:
        """The smallest choice whose drop the budget allows."""
        assert budget.accuracy_drop is not None
        allowed = budget.accuracy_drop
        choices = frontier(self._options)
        if budget.size_ratio is not None:
            choices = [choice for choice in choices if self._ratio(choice) <= budget.size_ratio]
            if not choices:
                self.within(budget.size_ratio)

        def accepts(choice: Choice) -> bool:
            key = (
                "drop",
                scorer.name,
                ",".join(f"{weight}={format}" for weight, format in sorted(choice.formats.items())),
            )
            drop = measurements.number(*key)
            if drop is None:
                drop = scorer.drop(self._session(choice))
                self._evaluations += 1
                measurements.write(drop, *key)
            # A drop of exactly the limit must not fail for the last bit of a division; NaN, of a metric that is not
            # defined, passes nothing.
            return drop <= allowed + 1e-9

        found = smallest_accepted(choices, accepts)
        if found is None:
            size = "" if budget.size_ratio is None else f" within --max-size-ratio {budget.size_ratio}"
            raise CompressionError(
                f"no choice of formats{size} keeps the drop within {allowed} points: the best loses more. The package "
                "as it is may lose as much already (`optimum-cli ane evaluate`); raise --max-accuracy-drop"
            )
        return found

    def _session(self, choice: Choice) -> Session:
        constants: dict[str, Constant] = {}
        for weight, format in choice.formats.items():
            constant = None if format == AS_IT_IS else self._library.constant(weight, format)
            if constant is not None:
                constants[weight] = constant
        return ChangedSession(self._library.package, constants, MAIN)

    def _ratio(self, choice: Choice) -> float:
        return (choice.size + self._rest) / self._file_size

    def result(self, choice: Choice, calibration: str) -> MixedRecipe:
        """Writes a choice down as a recipe."""
        bits = 8 * choice.size / sum(weight.elements for weight in self._library.weights.values())
        summary = f"bits by measured sensitivity: {bits:.2f} a weight on average, calibrated on {calibration}"
        return MixedRecipe(
            text=self._yaml(choice, summary),
            size_ratio=self._ratio(choice),
            bits=bits,
            formats=dict(Counter(choice.formats.values()).most_common()),
            harm=choice.harm,
            calibration=calibration,
            evaluations=self._evaluations,
        )

    def _yaml(self, choice: Choice, summary: str) -> str:
        steps: dict[str, dict[str, Any]] = {}
        for weight, format in choice.formats.items():
            if format != AS_IT_IS:
                settings = self._library.formats[format].settings
                step = steps.setdefault(settings.kind, {"kind": settings.kind, "weights": {}})
                step["weights"][weight] = _stated(settings)
        recipe = {"summary": summary, "steps": list(steps.values())}
        return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=119)


def _stated(settings: Settings) -> dict[str, Any]:
    """The settings that are not the default."""
    values = asdict(settings)
    return {field.name: values[field.name] for field in fields(settings) if values[field.name] != field.default}
