"""Limits that a package must keep to be accepted, by a build server say. They judge predictions."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_ane.analysis.inspection import Inspection
from optimum_ane.errors import ValidationError


@dataclass(frozen=True)
class Gates:
    """What is required; None requires nothing.

    Attributes:
        min_residency: The least share of the arithmetic that must be predicted on the engine without a condition,
            0 to 1.
        max_regions: The most regions, on and off the engine.
    """

    min_residency: float | None = None
    max_regions: int | None = None

    def check(self, inspection: Inspection) -> None:
        """Checks a package.

        Raises:
            ValidationError: A limit is not kept; the message names each that is not, with the cause.
        """
        broken = [*self._residency(inspection), *self._regions(inspection)]
        if broken:
            raise ValidationError(f"the prediction breaks {'; '.join(broken)}")

    def _residency(self, inspection: Inspection) -> list[str]:
        share = inspection.flops_share("ane")
        if self.min_residency is None or share >= self.min_residency:
            return []
        missing = [group for group in inspection.groups() if group.flops]
        costliest = max(missing, key=lambda group: group.flops, default=None)
        because = (
            "" if costliest is None else f", most of the rest by rule {costliest.rule.id}: {costliest.rule.remedy}"
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
            because = f", cut most by {operation.type} {operation.name}: {worst.placement.rule.remedy}"
        return [f"--max-regions {self.max_regions}: there are {count}{because}"]
