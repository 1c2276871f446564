"""Published latencies that the cost model is fitted to and judged by, with the steps of the programs that ran.

The tables are `data/anchors.yaml`, which explains itself, and `data/workloads.json`, which
`scripts/calibrate_cost_model.py` makes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from optimum_ane.analysis.chips import Trust, assume, get_chip
from optimum_ane.analysis.cost import total_cost
from optimum_ane.analysis.cost_parameters import CostParameters
from optimum_ane.analysis.workload import KINDS, Step

ModelKind = Literal["vision", "encoder", "diffusion", "decoder"]

_ROW = {"id", "model", "shape", "device", "chip", "os", "ms", "kind", "family", "source", "trust"}
_USED = {"workload"}
_OPTIONAL = {"note", "bits", "programs", "left_out"}
_SERIES = {"id", "model", "chip", "family", "source", "trust", "judged_only", "points", "relative_to"}


class AnchorError(ValueError):
    """A row that cannot be right; the message names the row and what is wrong with it."""


@dataclass(frozen=True)
class Workload:
    """What a program does in one prediction.

    Attributes:
        steps: Each distinct step with how often it occurs.
        crossings: How often the work changes from one device to the other.
    """

    steps: tuple[tuple[Step, int], ...]
    crossings: int

    def with_bits(self, bits: float) -> Workload:
        """Returns the same with weights of so many bits in place of 16."""
        return Workload(
            tuple((replace(step, weight_bytes=round(step.weight_bytes * bits / 16)), n) for step, n in self.steps),
            self.crossings,
        )


@dataclass(frozen=True)
class Anchor:
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
        workload: The program; None where the row is left out.
        programs: How many programs make one prediction.
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
    workload: Workload | None
    programs: int

    @property
    def published(self) -> float:
        """The latency of a row that is used."""
        if self.ms is None:
            raise AnchorError(f"{self.id}: no latency was published")
        return self.ms

    def predict(self, parameters: CostParameters) -> float:
        """Estimates the latency of a row that is used, milliseconds."""
        if self.workload is None or self.chip is None:
            raise AnchorError(f"{self.id} is left out: {self.left_out}")
        return _predict(self.workload, self.chip, parameters, self.programs)


@dataclass(frozen=True)
class Series:
    """Latencies of one model at several lengths, of which only the ratios count.

    Attributes:
        id: Unique.
        model: What ran.
        chip: The chip's name.
        family: As of `Anchor`.
        source: Who published it.
        trust: What kind of source that is.
        judged_only: Whether the fit does not see it.
        published: By workload, the latency in units of the reference's.
        workloads: By name.
        relative_to: The reference.
    """

    id: str
    model: str
    chip: str
    family: str
    source: str
    trust: Trust
    judged_only: bool
    published: Mapping[str, float]
    workloads: Mapping[str, Workload]
    relative_to: str

    def predict(self, parameters: CostParameters) -> dict[str, float]:
        """Estimates each latency in units of the reference's."""
        times = {name: _predict(work, self.chip, parameters) for name, work in self.workloads.items()}
        return {name: time / times[self.relative_to] for name, time in times.items()}


@dataclass(frozen=True)
class Anchors:
    """All of it.

    Attributes:
        rows: Every row, used or not.
        series: Every series.
    """

    rows: tuple[Anchor, ...]
    series: tuple[Series, ...]

    @property
    def used(self) -> tuple[Anchor, ...]:
        """The rows that the fit uses."""
        return tuple(row for row in self.rows if row.left_out is None)


def _predict(work: Workload, chip: str, parameters: CostParameters, programs: int = 1) -> float:
    engine = assume(get_chip(chip))
    return total_cost(work.steps, work.crossings, engine, parameters).total + (programs - 1) * engine.dispatch_ms


def anchors() -> Anchors:
    """Reads the tables that come with this library."""
    data = files("optimum_ane.analysis").joinpath("data")
    workloads = read_workloads(json.loads(data.joinpath("workloads.json").read_text(encoding="utf-8")))
    return read_anchors(data.joinpath("anchors.yaml").read_text(encoding="utf-8"), workloads)


def read_workloads(document: Any) -> dict[str, Workload]:
    """Reads workloads from what `write_workloads` makes.

    Raises:
        AnchorError: A step is of an unknown kind or holds a number below 0.
    """
    workloads = {}
    for name, entry in document.items():
        steps = []
        for kind, flops, weight_bytes, activation_bytes, count in entry["steps"]:
            if kind not in KINDS or min(flops, weight_bytes, activation_bytes) < 0 or count < 1:
                raise AnchorError(f"{name}: {kind}, {flops}, {weight_bytes}, {activation_bytes} × {count} is no step")
            steps.append((Step(kind, flops, weight_bytes, activation_bytes), count))
        workloads[name] = Workload(tuple(steps), int(entry["crossings"]))
    return workloads


def write_workloads(workloads: Mapping[str, Workload]) -> str:
    """Writes workloads as JSON, one step a line."""
    entries = []
    for name, work in workloads.items():
        steps = ",\n   ".join(
            json.dumps([step.kind, step.flops, step.weight_bytes, step.activation_bytes, count])
            for step, count in work.steps
        )
        entries.append(f' {json.dumps(name)}: {{"crossings": {work.crossings}, "steps": [\n   {steps}]}}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def read_anchors(text: str, workloads: Mapping[str, Workload]) -> Anchors:
    """Reads published latencies.

    Args:
        text: YAML of the form that `data/anchors.yaml` explains.
        workloads: By name.

    Raises:
        AnchorError: A row is incomplete, used without a number, or left out without a reason.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or set(document) != {"sources", "rows", "series"}:
        raise AnchorError("a table of anchors holds sources, rows and series, and nothing else")
    sources = document["sources"]
    rows = tuple(_row(entry, sources, workloads) for entry in document["rows"])
    series = tuple(_series(entry, sources, workloads) for entry in document["series"])
    names = [row.id for row in rows] + [each.id for each in series]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise AnchorError(f"there twice: {', '.join(doubled)}")
    return Anchors(rows, series)


def _row(entry: Mapping[str, Any], sources: Mapping[str, str], workloads: Mapping[str, Workload]) -> Anchor:
    place = entry.get("id", entry)
    left_out = entry.get("left_out")
    required = _ROW if left_out else _ROW | _USED
    _check_fields(place, set(entry), required, required | _OPTIONAL)
    if entry["kind"] not in get_args(ModelKind):
        raise AnchorError(f"{place}: kind {entry['kind']!r} is not one of {', '.join(get_args(ModelKind))}")
    if not left_out and not (isinstance(entry["ms"], int | float) and 0 < entry["ms"] < math.inf and entry["chip"]):
        raise AnchorError(f"{place}: a row that is used names a latency above 0 and a chip")
    if entry["chip"] is not None and get_chip(entry["chip"]).name != entry["chip"]:
        raise AnchorError(f"{place}: {entry['chip']} is not the name of a chip")
    fields = {name: entry[name] for name in _ROW - {"source"}}
    return Anchor(
        **fields,
        source=_source(place, entry, sources),
        left_out=left_out,
        note=entry.get("note"),
        workload=None if left_out else _workload(place, entry["workload"], workloads).with_bits(entry.get("bits", 16)),
        programs=entry.get("programs", 1),
    )


def _series(entry: Mapping[str, Any], sources: Mapping[str, str], workloads: Mapping[str, Workload]) -> Series:
    place = entry.get("id", entry)
    _check_fields(place, set(entry), _SERIES, _SERIES)
    points, reference = entry["points"], entry["relative_to"]
    if reference not in points or not all(isinstance(ms, int | float) and ms > 0 for ms in points.values()):
        raise AnchorError(f"{place}: points are latencies above 0, and the reference is one of them")
    fields = {name: entry[name] for name in _SERIES - {"source", "points"}}
    return Series(
        **fields,
        source=_source(place, entry, sources),
        published={name: ms / points[reference] for name, ms in points.items()},
        workloads={name: _workload(place, name, workloads) for name in points},
    )


def _check_fields(place: Any, given: set[str], required: set[str], known: set[str]) -> None:
    odd = sorted((required - given) | (given - known))
    if odd:
        raise AnchorError(f"{place}: missing or unknown: {', '.join(odd)}")


def _source(place: Any, entry: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    if entry["source"] not in sources or entry["trust"] not in get_args(Trust):
        raise AnchorError(f"{place}: source {entry['source']!r} or trust {entry['trust']!r} is not known")
    return sources[entry["source"]]


def _workload(place: Any, name: str, workloads: Mapping[str, Workload]) -> Workload:
    if name not in workloads:
        raise AnchorError(f"{place}: there is no workload {name!r}")
    return workloads[name]
