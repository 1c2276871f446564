"""`export_report.json`: what was measured while a package was made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One way that was tried to make programs of an original's graph.

    Attributes:
        capture: What recorded the graph; see `ConversionEntry`.
        engine_layout: Whether it was rewritten into the engine's layout.
        psnr: dB by output of the package against the original; empty where it did not come to that.
        error: Why it was not taken, in a line; None of the one that was.
        module: The path of the module in the original where the error arose; None where that is not known.
    """

    capture: str
    engine_layout: bool
    psnr: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    module: str | None = None


@dataclass
class ExportReport:
    """Numbers of one export. What was not measured is None or empty, never a default.

    Attributes:
        runtime: Which engine answered for the package.
        module_psnr: dB by output, the Neural Engine module in float32 PyTorch against the original.
        original_psnr: dB by output, the original in float32 against itself in float64; measured where the module was
            further from it than modules usually are.
        residual_peaks: Of language models with a cache, the largest absolute value behind each layer of the original
            on the text that is compared; empty where its layers could not be told.
        package_psnr: dB by output, the saved package against the original.
        psnr_threshold: dB; the package was accepted at or above it.
        logits: Of language models with a cache, how close each token's logits are, by the function that gave them.
        accuracy: The accuracy report, as `evaluation` writes it.
        operations: How many of each type the program has, constants left out.
        sizes: Bytes of the package and of its weights.
        layers: dB by layer, each layer's output in the saved package against the original's; empty where a stock
            module's layers could not be told, or are not all to be found in the program.
        residency: What is predicted to run where, as `analysis` writes it; of the default function.
        functions: The same of each function, by name, of a package with several.
        compression: The recipe and what it covered, as `compression` writes it.
        command: How the package was made, as a line to copy; directories and files by their names alone.
        attempts: The ways that were tried to make programs of an original's graph; the last was taken. Empty of
            hand-written modules.
        warnings: What is not as it should be and no reason to refuse the package, a sentence each.
        left_out: Tensors of the checkpoint that the package does not need, by name.
        seconds: By stage.
        peak_memory_bytes: The most resident memory that the process held.
        machine: What kind of machine measured all this.
        versions: Of the tools.
    """

    machine: str
    versions: Mapping[str, str]
    runtime: str | None = None
    module_psnr: Mapping[str, float] = field(default_factory=dict)
    original_psnr: Mapping[str, float] = field(default_factory=dict)
    package_psnr: Mapping[str, float] = field(default_factory=dict)
    residual_peaks: Sequence[float] = ()
    psnr_threshold: float | None = None
    logits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    accuracy: Mapping[str, Any] | None = None
    operations: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, float] | None = None
    residency: Mapping[str, Any] | None = None
    functions: Mapping[str, Any] | None = None
    compression: Mapping[str, Any] | None = None
    command: str | None = None
    attempts: Sequence[Attempt] = ()
    warnings: Sequence[str] = ()
    left_out: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types; an infinite PSNR, of equal answers, becomes the string `"inf"`."""
        return _plain(asdict(self))

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def measure_sizes(mlpackages: Path | Iterable[Path]) -> dict[str, int]:
    """Bytes of one or several `.mlpackage`s on disk: all of it, and their weight files."""
    places = [mlpackages] if isinstance(mlpackages, Path) else mlpackages
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {
        "package": sum(path.stat().st_size for path in files),
        "weights": sum(path.stat().st_size for path in files if path.suffix == ".bin"),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
