"""Limits that a package must keep to be accepted, by a build server say. They judge predictions."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_ane.analysis.inspection import Inspection
from optimum_ane.analysis.rules import Rule
from optimum_ane.errors import InputError, ValidationError


@dataclass(frozen=True)
class Gates:
    """What is required; None requires nothing.

    Attributes:
        min_residency: The least share of the arithmetic that must be predicted on the engine without a condition,
            0 to 1.
        max_regions: The most regions, on and off the engine.
        max_latency_ms: The most milliseconds that a prediction is estimated to take, typically.
    """

    min_residency: float | None = None
    max_regions: int | None = None
    max_latency_ms: float | None = None

    def check_chip(self, chip: str | None) -> None:
        """Makes sure that there is a chip where a limit needs one.

        Raises:
            InputError: A latency is limited, and no chip is named.
        """
        if self.max_latency_ms is not None and chip is None:
            raise InputError("--max-latency-ms needs --chip: a latency is estimated for one chip")

    def check(self, inspection: Inspection) -> None:
        """Checks a package.

        Raises:
            ValidationError: A limit is not kept; the message names each that is not, with the cause.
            InputError: A latency is limited, and the inspection is for no chip.
        """
        self.check_chip(None if inspection.chip is None else inspection.chip.name)
        broken = [*self._residency(inspection), *self._regions(inspection), *self._latency(inspection)]
        if broken:
            program = inspection.program
            whose = f" for function {program.function}" if program.others else ""
            raise ValidationError(f"the prediction{whose} breaks {'; '.join(broken)}")

    def _residency(self, inspection: Inspection) -> list[str]:
        if self.min_residency is None:
            return []
        share = inspection.flops_share("ane")
        if share >= self.min_residency:
            return []
        missing = [group for group in inspection.groups() if group.flops]
        costliest = max(missing, key=lambda group: group.flops, default=None)
        because = (
            "" if costliest is None else f", most of the rest by rule {costliest.rule.id}: {_clause(costliest.rule)}"
        )
        conditional = inspection.flops_share("conditional")
        return [
            f"--min-residency {self.min_residency:g}: {share:.4f} of the arithmetic is on the Neural Engine, and "
            f"{conditional:.4f} more under conditions{because}"
        ]

    def _regions(self, inspection: Inspection) -> list[str]:
        count, worst = len(inspection.regions), inspection.worst
        if self.max_regions is None or count <= self.max_regions:
            return []
        because = ""
        if worst is not None:
            operation = worst.placement.operation
            because = f", cut most by {operation.type} {operation.name}: {_clause(worst.placement.rule)}"
        return [f"--max-regions {self.max_regions}: there are {count}{because}"]

    def _latency(self, inspection: Inspection) -> list[str]:
        cost = inspection.cost
        if self.max_latency_ms is None or cost is None or cost.typical_ms <= self.max_latency_ms:
            return []
        return [
            f"--max-latency-ms {self.max_latency_ms:g}: {cost.typical_ms:.2f} ms are estimated for {cost.chip.name} "
            f"({cost.low_ms:.2f} to {cost.high_ms:.2f}), most of it {cost.bound}"
        ]


def _clause(rule: Rule) -> str:
    """The remedy as part of a longer sentence."""
    return rule.remedy.rstrip(".")
