"""Published latencies that the cost model is fitted to and tested on, with the steps of the programs that ran.

The table is `published_latencies.yaml`, which explains itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from cost_calibration.program_steps import PROGRAM_STEPS, ProgramSteps, read_program_steps
from optimum_ane.analysis.chips import Trust, assume, get_chip
from optimum_ane.analysis.cost_parameters import CostParameters

ModelKind = Literal["vision", "encoder", "diffusion", "decoder"]

_TABLE = Path(__file__).with_name("published_latencies.yaml")
_ROW = {"id", "model", "shape", "device", "chip", "os", "ms", "kind", "family", "source", "trust"}
_USED = {"program"}
_OPTIONAL = {"note", "bits", "program_count", "left_out"}
_SERIES = {"id", "model", "chip", "family", "source", "trust", "held_out", "points", "relative_to"}


class LatencyTableError(ValueError):
    """A row that cannot be right; the message names the row and what is wrong with it."""


@dataclass(frozen=True)
class PublishedLatency:
    """One published latency.

    Attributes:
        id: Unique.
        model: What ran.
        shape: Of its input.
        device: On what.
        chip: The chip's name; None where none was named.
        os: The system; None where none was named.
        ms: The latency of one prediction in milliseconds; None where none was published.
        kind: Of model.
        family: What stands and falls together.
        source: Who published it.
        trust: What kind of source that is.
        left_out: Why it is not used; None where it is.
        note: How `ms` follows from what was published; None where that is plain.
        program: What ran; None where the row is left out.
        program_count: How many such programs make one prediction.
    """

    id: str
    model: str
    shape: str
    device: str
    chip: str | None
    os: str | None
    ms: float | None
    kind: ModelKind
    family: str
    source: str
    trust: Trust
    left_out: str | None
    note: str | None
    program: ProgramSteps | None
    program_count: int

    @property
    def published(self) -> float:
        """The latency of a row that is used."""
        if self.ms is None:
            raise LatencyTableError(f"{self.id}: no latency was published")
        return self.ms

    def predict(self, parameters: CostParameters) -> float:
        """Estimates the latency of a row that is used, milliseconds."""
        if self.program is None or self.chip is None:
            raise LatencyTableError(f"{self.id} is left out: {self.left_out}")
        return _predict(self.program, self.chip, parameters, self.program_count)


@dataclass(frozen=True)
class Series:
    """Latencies of one model at several lengths, of which only the ratios count.

    Attributes:
        id: Unique.
        model: What ran.
        chip: The chip's name.
        family: As of `PublishedLatency`.
        source: Who published it.
        trust: What kind of source that is.
        held_out: Whether the fit does not see it.
        published: By program, the latency in units of the reference's.
        programs: By name.
        relative_to: The reference.
    """

    id: str
    model: str
    chip: str
    family: str
    source: str
    trust: Trust
    held_out: bool
    published: Mapping[str, float]
    programs: Mapping[str, ProgramSteps]
    relative_to: str

    def predict(self, parameters: CostParameters) -> dict[str, float]:
        """Estimates each latency in units of the reference's."""
        times = {name: _predict(program, self.chip, parameters) for name, program in self.programs.items()}
        return {name: time / times[self.relative_to] for name, time in times.items()}


@dataclass(frozen=True)
class PublishedLatencies:
    """All of it.

    Attributes:
        rows: Every row, used or not.
        series: Every series.
    """

    rows: tuple[PublishedLatency, ...]
    series: tuple[Series, ...]

    @property
    def used(self) -> tuple[PublishedLatency, ...]:
        """The rows that the fit uses."""
        return tuple(row for row in self.rows if row.left_out is None)


def _predict(program: ProgramSteps, chip: str, parameters: CostParameters, program_count: int = 1) -> float:
    engine = assume(get_chip(chip))
    return program.cost(engine, parameters).total + (program_count - 1) * engine.dispatch_ms


def published_latencies() -> PublishedLatencies:
    """Reads the tables beside this file."""
    programs = read_program_steps(PROGRAM_STEPS.read_text(encoding="utf-8"))
    return read_latencies(_TABLE.read_text(encoding="utf-8"), programs)


def read_latencies(text: str, programs: Mapping[str, ProgramSteps]) -> PublishedLatencies:
    """Reads published latencies.

    Args:
        text: YAML of the form that `published_latencies.yaml` explains.
        programs: By name.

    Raises:
        LatencyTableError: A row is incomplete, used without a number, or left out without a reason.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or set(document) != {"sources", "rows", "series"}:
        raise LatencyTableError("a table of latencies holds sources, rows and series, and nothing else")
    sources = document["sources"]
    rows = tuple(_row(entry, sources, programs) for entry in document["rows"])
    series = tuple(_series(entry, sources, programs) for entry in document["series"])
    names = [row.id for row in rows] + [each.id for each in series]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise LatencyTableError(f"there twice: {', '.join(doubled)}")
    return PublishedLatencies(rows, series)


def _row(
    entry: Mapping[str, Any], sources: Mapping[str, str], programs: Mapping[str, ProgramSteps]
) -> PublishedLatency:
    place = entry.get("id", entry)
    left_out = entry.get("left_out")
    required = _ROW if left_out else _ROW | _USED
    _check_fields(place, set(entry), required, required | _OPTIONAL)
    if entry["kind"] not in get_args(ModelKind):
        raise LatencyTableError(f"{place}: kind {entry['kind']!r} is not one of {', '.join(get_args(ModelKind))}")
    if not left_out and not (isinstance(entry["ms"], int | float) and 0 < entry["ms"] < math.inf and entry["chip"]):
        raise LatencyTableError(f"{place}: a row that is used names a latency above 0 and a chip")
    if entry["chip"] is not None and get_chip(entry["chip"]).name != entry["chip"]:
        raise LatencyTableError(f"{place}: {entry['chip']} is not the name of a chip")
    fields = {name: entry[name] for name in _ROW - {"source"}}
    return PublishedLatency(
        **fields,
        source=_source(place, entry, sources),
        left_out=left_out,
        note=entry.get("note"),
        program=None if left_out else _program(place, entry["program"], programs).with_bits(entry.get("bits", 16)),
        program_count=entry.get("program_count", 1),
    )


def _series(entry: Mapping[str, Any], sources: Mapping[str, str], programs: Mapping[str, ProgramSteps]) -> Series:
    place = entry.get("id", entry)
    _check_fields(place, set(entry), _SERIES, _SERIES)
    points, reference = entry["points"], entry["relative_to"]
    if reference not in points or not all(isinstance(ms, int | float) and ms > 0 for ms in points.values()):
        raise LatencyTableError(f"{place}: points are latencies above 0, and the reference is one of them")
    fields = {name: entry[name] for name in _SERIES - {"source", "points"}}
    return Series(
        **fields,
        source=_source(place, entry, sources),
        published={name: ms / points[reference] for name, ms in points.items()},
        programs={name: _program(place, name, programs) for name in points},
    )


def _check_fields(place: Any, given: set[str], required: set[str], known: set[str]) -> None:
    odd = sorted((required - given) | (given - known))
    if odd:
        raise LatencyTableError(f"{place}: missing or unknown: {', '.join(odd)}")


def _source(place: Any, entry: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    if entry["source"] not in sources or entry["trust"] not in get_args(Trust):
        raise LatencyTableError(f"{place}: source {entry['source']!r} or trust {entry['trust']!r} is not known")
    return sources[entry["source"]]


def _program(place: Any, name: str, programs: Mapping[str, ProgramSteps]) -> ProgramSteps:
    if name not in programs:
        raise LatencyTableError(f"{place}: there is no program {name!r}")
    return programs[name]
