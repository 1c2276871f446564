"""What each weight in each format does to the answers, measured; kept on disk, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optimum_ane.compression.calibration_data import Calibration, Distance
from optimum_ane.compression.search import Option, Options
from optimum_ane.compression.weight_formats import AS_IT_IS, FormattedWeights
from optimum_ane.package.file_writing import write_file
from optimum_ane.progress import Progress, silent
from optimum_ane.runtimes.portable.values import Constant
from optimum_ane.runtimes.portable.variants import VariantRunner
from optimum_ane.targets.coreml.multifunction import MAIN
from optimum_ane.version import __version__

_FORMAT = 1


class Measurements:
    """Numbers that were measured, in a JSON file that is whole at every moment.

    Attributes:
        path: The file. Its name holds what the numbers depend on, so that others begin another file.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Any]) -> None:
        """Opens the file of these parts, or begins one.

        Args:
            folder: Where it lies; made if it is not there.
            parts: Everything that the numbers depend on, as JSON types.
        """
        folder.mkdir(parents=True, exist_ok=True)
        parts = {**parts, "format": _FORMAT, "version": __version__}
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"measured-{key[:16]}.json"
        self._content: dict[str, Any] = {"of": parts, "numbers": {}}
        content = _read(self.path)
        if content.get("of") == self._content["of"] and isinstance(content.get("numbers"), dict):
            self._content = content

    def number(self, *key: str) -> float | None:
        """Returns a number, or None where it is not there."""
        value = self._content["numbers"].get(" | ".join(key))
        return float(value) if isinstance(value, int | float) else None

    def write(self, value: float, *key: str) -> None:
        """Adds a number."""
        self._content["numbers"][" | ".join(key)] = value
        write_file(self.path, json.dumps(self._content, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    """Reads a file; one that is missing or damaged is begun anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def digest_of_package(mlpackage: Path) -> str:
    """SHA-256 of the model and weight files of a package; its manifest, which names change in, is left out."""
    digest = hashlib.sha256()
    for path in sorted(path for path in mlpackage.rglob("*") if path.is_file() and path.name != "Manifest.json"):
        digest.update(path.relative_to(mlpackage).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def measure_options(
    library: FormattedWeights,
    calibration: Calibration,
    measurements: Measurements,
    *,
    of_classes: bool,
    progress: Progress = silent,
) -> Options:
    """Measures what each weight costs and does in each format that it may take.

    Args:
        library: The weights and formats.
        calibration: What the package is run on.
        measurements: Holds what was measured before, and takes what is new.
        of_classes: See `Distance`.
        progress: Is called with (predictions done, predictions in all).

    Returns:
        The formats of each weight, that of the weight as it is among them.

    Raises:
        CompressionError: The answers of the package as it is cannot be measured against.
    """
    formats = {weight: library.formats_of(weight) for weight in library.weights}
    missing = {
        weight: [format for format in names if measurements.number("harm", weight, format) is None]
        for weight, names in formats.items()
    }
    missing = {weight: names for weight, names in missing.items() if names}
    if missing:
        runner = VariantRunner(library.package, calibration.batches, MAIN)
        distance = Distance(calibration, runner.baseline, of_classes=of_classes)
        total, done = len(calibration.batches) * sum(map(len, missing.values())), 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        def stand_ins(weight: str) -> dict[str, Callable[[], Constant]]:
            return {format: _loader(library, weight, format) for format in missing[weight]}

        for trial in runner.trials(missing, stand_ins, advance):
            measurements.write(distance(trial.outputs), "harm", trial.weight, trial.name)
    return {weight: _options(library, measurements, weight, names) for weight, names in formats.items()}


def _loader(library: FormattedWeights, weight: str, format: str) -> Callable[[], Constant]:
    def load() -> Constant:
        constant = library.constant(weight, format)
        assert constant is not None  # it is one of `formats_of`
        return constant

    return load


def _options(
    library: FormattedWeights, measurements: Measurements, weight: str, formats: tuple[str, ...]
) -> tuple[Option, ...]:
    """The formats of a weight; one in which the answers are not finite is none."""
    options = [Option(AS_IT_IS, library.size(weight, AS_IT_IS), 0.0)]
    for format in formats:
        harm = measurements.number("harm", weight, format)
        if harm is not None and math.isfinite(harm):
            options.append(Option(format, library.size(weight, format), harm))
    return tuple(options)
