"""Programs reduced to what the cost model sees of them: each distinct step, and how often it occurs.

Layers repeat, so a program is a small table in place of a package; `program_steps.json` holds those of the programs
whose latencies were published, as `stand_ins.py` makes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_ane.analysis.chips import Engine
from optimum_ane.analysis.cost import Parts, fixed_cost, step_cost
from optimum_ane.analysis.cost_parameters import CostParameters
from optimum_ane.analysis.steps import KINDS, Step

PROGRAM_STEPS = Path(__file__).with_name("program_steps.json")


class ProgramStepsError(ValueError):
    """A step that cannot be one; the message names the program and the step."""


@dataclass(frozen=True)
class ProgramSteps:
    """What a program does in one prediction.

    Attributes:
        steps: Each distinct step with how often it occurs.
        crossings: How often the work changes from one device to the other.
    """

    steps: tuple[tuple[Step, int], ...]
    crossings: int

    def with_bits(self, bits: float) -> ProgramSteps:
        """Returns the same with weights of so many bits in place of 16."""
        return ProgramSteps(
            tuple((replace(step, weight_bytes=round(step.weight_bytes * bits / 16)), n) for step, n in self.steps),
            self.crossings,
        )

    def cost(self, engine: Engine, parameters: CostParameters) -> Parts:
        """Prices one prediction.

        Args:
            engine: From `assume`.
            parameters: Of the model.

        Returns:
            Milliseconds by cause.
        """
        weights = activations = arithmetic = hosted = 0.0
        for step, count in self.steps:
            parts = step_cost(step, engine, parameters)
            weights += count * parts.weights
            activations += count * parts.activations
            arithmetic += count * parts.arithmetic
            hosted += count * parts.crossings
        fixed = fixed_cost(True, self.crossings, engine, parameters)
        return fixed.plus(Parts(weights, activations, arithmetic, hosted))


def count_steps(steps: Iterable[Step], crossings: int) -> ProgramSteps:
    """Counts equal steps, those that cost nothing left out."""
    counted = Counter(step for step in steps if step.kind != "free")
    return ProgramSteps(tuple(counted.items()), crossings)


def read_program_steps(text: str) -> dict[str, ProgramSteps]:
    """Reads programs from what `write_program_steps` makes.

    Raises:
        ProgramStepsError: A step is of an unknown kind or holds a number below 0.
    """
    programs = {}
    for name, entry in json.loads(text).items():
        steps = []
        for kind, flops, weight_bytes, activation_bytes, count in entry["steps"]:
            if kind not in KINDS or min(flops, weight_bytes, activation_bytes) < 0 or count < 1:
                raise ProgramStepsError(
                    f"{name}: {kind}, {flops}, {weight_bytes}, {activation_bytes} × {count} is no step"
                )
            steps.append((Step(kind, flops, weight_bytes, activation_bytes), count))
        programs[name] = ProgramSteps(tuple(steps), int(entry["crossings"]))
    return programs


def write_program_steps(programs: Mapping[str, ProgramSteps]) -> str:
    """Writes programs as JSON, one step a line."""
    entries = []
    for name, program in programs.items():
        steps = ",\n   ".join(
            json.dumps([step.kind, step.flops, step.weight_bytes, step.activation_bytes, count])
            for step, count in program.steps
        )
        entries.append(f' {json.dumps(name)}: {{"crossings": {program.crossings}, "steps": [\n   {steps}]}}')
    return "{\n" + ",\n".join(entries) + "\n}\n"
