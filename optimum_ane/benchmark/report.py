"""What a benchmark found, as JSON and as data for the table and the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from optimum_ane.benchmark.machine import Machine
from optimum_ane.benchmark.timing import Settings, Summary
from optimum_ane.errors import InputError
from optimum_ane.package.file_writing import write_file

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Row:
    """One model in one shape.

    Attributes:
        kind: `"package"`, `"stock"` or `"original"`.
        runtime: `"coreml"`, `"portable"` or `"pytorch"`.
        compute_units: Core ML's preference; None for the other runtimes. Which unit ran what is the system's decision.
        precision: Of the program; None where the package does not tell.
        batch_size: Rows per prediction; None where the package does not tell.
        sequence_length: Tokens per row; the same, and where a row is no text.
        burst: Predictions one after the other, warm; of a package without the model class around them.
        paused: Predictions after a rest; None if these were left out.
        times_as_fast: As the original, in the same rounds; None without one, and for the original itself.
        model_class_ms: What the model class takes around the predictions of one call, measured by itself: padding,
            copies, putting answers in order. None for the original and where there is no model class.
        load_seconds: In a process of its own.
        first_prediction_ms: There.
        memory_bytes: There, the peak above what the libraries take.
        size_bytes: Of the package on disk; of the original its parameters in float32.
        psnr: dB against the original on the timed inputs, the worst output; None without an original. -inf where an
            answer holds NaN or infinity.
    """

    kind: str
    runtime: str
    compute_units: str | None
    precision: str | None
    batch_size: int | None
    sequence_length: int | None
    burst: Summary
    paused: Summary | None
    times_as_fast: float | None
    model_class_ms: float | None
    load_seconds: float
    first_prediction_ms: float
    memory_bytes: int
    size_bytes: int
    psnr: float | None

    @property
    def is_noisy(self) -> bool:
        """Whether the burst was too restless to be trusted."""
        return self.burst.is_noisy

    @property
    def shape(self) -> str:
        """`"1 × 128"`, rows times tokens; rows alone where a row is no text."""
        if self.batch_size is None:
            return ""
        return str(self.batch_size) if self.sequence_length is None else f"{self.batch_size} × {self.sequence_length}"


@dataclass(frozen=True)
class BenchmarkReport:
    """A whole run.

    Attributes:
        package: The package's name, without the path that leads to it.
        original: Hub id or name of the checkpoint; None where there was no comparison.
        task: Optimum's name; None where the package does not tell.
        statement: What these numbers do and do not say, to stand beside them.
        machine: The kind of machine.
        versions: Of the tools.
        settings: How it was measured.
        rows: What was measured.
        notes: What was left out, and why.
        format_version: Of the JSON.
    """

    package: str
    original: str | None
    task: str | None
    statement: str
    machine: Machine
    versions: Mapping[str, str]
    settings: Settings
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    format_version: int = FORMAT_VERSION

    @property
    def is_noisy(self) -> bool:
        """Whether any row was."""
        return any(row.is_noisy for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; whether a row was noisy stands there too, and an infinite PSNR is a string."""
        entries = asdict(self)
        for entry, row in zip(entries["rows"], self.rows, strict=True):
            entry["is_noisy"] = row.is_noisy
            if row.psnr is not None and not math.isfinite(row.psnr):
                entry["psnr"] = str(row.psnr)
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> BenchmarkReport:
        """The inverse of `to_dict`.

        Raises:
            InputError: The entries are of another format.
        """
        if entries.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"the report has format {entries.get('format_version')!r}, this version reads {FORMAT_VERSION}"
            )
        try:
            plain = {entry.name: entries[entry.name] for entry in fields(cls)}
            rows = tuple(_row(row) for row in plain["rows"])
            machine, settings = Machine(**plain["machine"]), Settings(**plain["settings"])
            notes = tuple(plain["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the report is damaged: {error!r}") from error
        return cls(**plain | {"rows": rows, "machine": machine, "settings": settings, "notes": notes})

    def write(self, path: str | Path) -> None:
        """Writes the JSON, over a former one.

        Raises:
            OutputError: It cannot be written.
        """
        write_file(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _row(entries: Mapping[str, Any]) -> Row:
    plain = {entry.name: entries[entry.name] for entry in fields(Row)}
    plain["burst"] = Summary(**plain["burst"])
    plain["paused"] = None if plain["paused"] is None else Summary(**plain["paused"])
    plain["psnr"] = None if plain["psnr"] is None else float(plain["psnr"])
    return Row(**plain)
