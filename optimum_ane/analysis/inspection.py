"""What is known of a package before it meets a device: where its operations run, what it takes, and what it costs.

All of it is predicted from the program and public sources; nothing here ran on the Neural Engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimum_ane.analysis.chips import Chip, get_chip
from optimum_ane.analysis.cost import BOUNDS, CostEstimate, estimate
from optimum_ane.analysis.lint import Finding, lint
from optimum_ane.analysis.memory import Memory, measure_memory
from optimum_ane.analysis.operations import Operation, Program, read_program
from optimum_ane.analysis.partition import (
    Offender,
    Position,
    Region,
    crossings,
    device_of,
    find_offenders,
    partition,
    worst_offender,
)
from optimum_ane.analysis.residency import Placement, place
from optimum_ane.analysis.rules import Rule
from optimum_ane.analysis.steps import read_steps
from optimum_ane.package.layout import find_mlpackage

VERDICTS = ("ane", "conditional", "fallback")


@dataclass(frozen=True)
class Share:
    """What operations of one verdict amount to.

    Attributes:
        operations: How many.
        flops: Their arithmetic, 2 per multiply-add.
        bytes: The weights, operands and results that they read and write, padded as the engine pads them.
    """

    operations: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class RuleGroup:
    """The operations that one rule keeps off the engine, or leaves open.

    Attributes:
        rule: The rule.
        operations: The operations, in the order of the program.
        positions: Where they stand; empty for those that are not off the engine.
    """

    rule: Rule
    operations: tuple[Operation, ...]
    positions: tuple[Position, ...]

    @property
    def flops(self) -> int:
        """Their arithmetic."""
        return sum(operation.flops for operation in self.operations)


@dataclass(frozen=True)
class Inspection:
    """What is predicted of one function of a package.

    Attributes:
        program: The program.
        chip: The chip that it is predicted for; None for any from A14 and M1 on.
        placements: Where each operation is predicted to run.
        regions: Its partition.
        offenders: What is off the engine.
        shares: By verdict.
        memory: What it takes.
        cost: How long a prediction is estimated to take; None where no chip was named.
        findings: The rules for states and functions that it breaks, errors first.
    """

    program: Program
    chip: Chip | None
    placements: tuple[Placement, ...]
    regions: tuple[Region, ...]
    offenders: tuple[Offender, ...]
    shares: Mapping[str, Share]
    memory: Memory
    cost: CostEstimate | None
    findings: tuple[Finding, ...]

    @property
    def crossings(self) -> int:
        """How often the work changes from one device to the other."""
        return crossings(self.regions)

    @property
    def worst(self) -> Offender | None:
        """The offender whose fall costs most."""
        return worst_offender(self.offenders)

    def flops_share(self, verdict: str) -> float:
        """Returns the share of all arithmetic that has a verdict; of a program without any, that of its operations."""
        total, own = self.program.flops, self.shares[verdict].flops
        if not total:
            total, own = max(1, len(self.placements)), self.shares[verdict].operations
        return own / total

    def groups(self) -> tuple[RuleGroup, ...]:
        """Returns what is not surely on the engine, rule by rule: off it first, then by arithmetic."""
        positions = {o.placement.operation: o.position for o in self.offenders}
        by_rule: dict[str, list[Placement]] = {}
        for placement in self.placements:
            if placement.verdict != "ane":
                by_rule.setdefault(placement.rule.id, []).append(placement)
        groups = [
            RuleGroup(
                own[0].rule,
                tuple(placement.operation for placement in own),
                tuple(positions[p.operation] for p in own if p.operation in positions),
            )
            for own in by_rule.values()
        ]
        return tuple(
            sorted(groups, key=lambda g: (g.rule.verdict != "fallback", "middle" not in g.positions, -g.flops))
        )

    def summary(self) -> dict[str, Any]:
        """Returns the prediction of residency as an export's report holds it."""
        return {
            "prediction": True,
            "chip": None if self.chip is None else self.chip.name,
            "operations": {verdict: self.shares[verdict].operations for verdict in VERDICTS},
            "flops": {verdict: self.shares[verdict].flops for verdict in VERDICTS},
            "bytes": {verdict: self.shares[verdict].bytes for verdict in VERDICTS},
            "flops_share_on_ane": self.flops_share("ane"),
            "flops_share_conditional": self.flops_share("conditional"),
            "regions": len(self.regions),
            "crossings": self.crossings,
            "latency_ms": None if self.cost is None else _latency(self.cost),
            "shapes_are_lower_bounds": self.program.has_unknown_shapes,
            "first_offender": _offender(self.offenders[0] if self.offenders else None),
            "worst_offender": _offender(self.worst),
            "offenders": [_group(group) for group in self.groups()],
            "broken_rules": [finding.to_dict() for finding in self.findings],
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON holds it."""
        where = {o: number for number, region in enumerate(self.regions) for o in region.operations}
        return {
            "package": str(self.program.path),
            "function": self.program.function,
            "residency": self.summary(),
            "regions": [
                {"device": region.device, "operations": len(region.operations), "flops": region.flops}
                for region in self.regions
            ],
            "operations": [_operation(placement, where[placement.operation]) for placement in self.placements],
            "memory": asdict(self.memory),
            "cost": None if self.cost is None else _cost(self.cost),
        }


def inspect(package: str | Path, chip: str | None = None, function: str | None = None) -> Inspection:
    """Predicts where a package's operations run, what it takes, and for a chip how long a prediction takes.

    Args:
        package: An exported directory, or any `.mlpackage` of an ML Program.
        chip: The chip's name, `"A15"` or `"M2"` say; None for any from A14 and M1 on.
        function: Of a package with several; None takes the package's default.

    Raises:
        PackageError: The package is missing or damaged, holds no ML Program, or has no such function.
        InputError: No chip has this name.
    """
    named = None if chip is None else get_chip(chip)
    program = read_program(find_mlpackage(package), function)
    placements = place(program, named)
    regions = partition(placements)
    return Inspection(
        program=program,
        chip=named,
        placements=placements,
        regions=regions,
        offenders=find_offenders(placements, regions),
        shares=_shares(placements),
        memory=measure_memory(program, placements),
        cost=None if named is None else estimate(program, regions, named),
        findings=lint(program, named),
    )


def _shares(placements: Sequence[Placement]) -> dict[str, Share]:
    operations = [placement.operation for placement in placements]
    off = {placement.operation for placement in placements if device_of(placement) == "cpu"}
    steps = read_steps(operations, off)
    shares = {}
    for verdict in VERDICTS:
        own = [(p.operation, step) for p, step in zip(placements, steps, strict=True) if p.verdict == verdict]
        moved = sum(step.weight_bytes + step.activation_bytes for _, step in own)
        shares[verdict] = Share(len(own), sum(operation.flops for operation, _ in own), moved)
    return shares


def _latency(cost: CostEstimate) -> dict[str, Any]:
    return {"low": cost.low_ms, "typical": cost.typical_ms, "high": cost.high_ms, "bound": cost.bound}


def _cost(cost: CostEstimate) -> dict[str, Any]:
    return {
        "estimate": True,
        "chip": cost.chip.name,
        "milliseconds": _latency(cost),
        "parts": {name: getattr(cost.parts, name) for name in BOUNDS},
        "operations": [
            {"index": each.operation.index, "milliseconds": each.milliseconds, "bound": each.parts.bound}
            for each in cost.operations
        ],
        "assumptions": list(cost.assumptions),
    }


def _offender(offender: Offender | None) -> dict[str, Any] | None:
    if offender is None:
        return None
    operation, rule = offender.placement.operation, offender.placement.rule
    return {"name": operation.name, "type": operation.type, "rule": rule.id, "position": offender.position}


def _group(group: RuleGroup) -> dict[str, Any]:
    rule = group.rule
    return {
        "rule": rule.id,
        "verdict": rule.verdict,
        "operations": len(group.operations),
        "types": sorted({operation.type for operation in group.operations}),
        "names": [operation.name for operation in group.operations[:3]],
        "positions": sorted(set(group.positions)),
        "flops": group.flops,
        "reason": rule.reason,
        "remedy": rule.remedy,
        "source": rule.source,
        "trust": rule.trust,
    }


def _operation(placement: Placement, region: int) -> dict[str, Any]:
    operation = placement.operation
    return {
        "index": operation.index,
        "name": operation.name,
        "type": operation.type,
        "verdict": placement.verdict,
        "rule": placement.rule.id,
        "region": region,
        "flops": operation.flops,
        "weight_bytes": operation.weight_bytes,
        "outputs": [{"dtype": t.dtype, "shape": list(t.shape)} for t in operation.outputs],
    }
