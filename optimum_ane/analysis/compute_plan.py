"""Asks Core ML itself where each operation will run, and sets the answer beside the prediction. macOS only.

The answer is Core ML's plan for this machine and this version of the system (`MLComputePlan`): which device it prefers
for each operation, and its estimate of each operation's share of the cost. It is a plan, not a measurement.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.analysis.operations import Program
from optimum_ane.analysis.partition import device_of
from optimum_ane.analysis.residency import Placement
from optimum_ane.errors import PackageError, RuntimeUnavailableError
from optimum_ane.package.working_folders import WorkingFolder

_DEVICES = {"MLNeuralEngineComputeDevice": "ane", "MLGPUComputeDevice": "gpu", "MLCPUComputeDevice": "cpu"}
"""coremltools' classes of devices; they cannot be made by hand, so they are told by their names."""


@dataclass(frozen=True)
class PlannedOperation:
    """Core ML's plan for one operation, and our prediction.

    Attributes:
        placement: The prediction.
        device: `"ane"`, `"gpu"` or `"cpu"`; None where Core ML does not say.
        supported: Every device that could run it.
        cost: Core ML's estimate of its share of the whole, 0 to 1; None where it does not say.
    """

    placement: Placement
    device: str | None
    supported: tuple[str, ...]
    cost: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the prediction came true; None where Core ML does not say, or the prediction is conditional."""
        if self.device is None or self.placement.verdict == "conditional":
            return None
        return (self.device == "ane") == (device_of(self.placement) == "ane")


@dataclass(frozen=True)
class DevicePlan:
    """Core ML's plan for a program on this machine.

    Attributes:
        compute_units: The preference that it was asked with, `"cpu_and_ne"` say.
        system: The system's name and version.
        operations: In the order of the program.
    """

    compute_units: str
    system: str
    operations: tuple[PlannedOperation, ...]

    @property
    def agreement(self) -> float | None:
        """The share of operations that run where they were predicted to; None if there are none to compare."""
        answers = [operation.agrees for operation in self.operations if operation.agrees is not None]
        return sum(answers) / len(answers) if answers else None

    @property
    def disagreements(self) -> tuple[PlannedOperation, ...]:
        """The operations that run elsewhere than predicted."""
        return tuple(operation for operation in self.operations if operation.agrees is False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON holds it."""
        conditional = [operation for operation in self.operations if operation.placement.verdict == "conditional"]
        return {
            "compute_units": self.compute_units,
            "system": self.system,
            "operations": _count_devices(self.operations),
            "conditional_operations": _count_devices(conditional),
            "agreement": self.agreement,
            "disagreements": [
                {
                    "name": o.placement.operation.name,
                    "type": o.placement.operation.type,
                    "predicted": o.placement.verdict,
                    "rule": o.placement.rule.id,
                    "device": o.device,
                    "supported": list(o.supported),
                    "cost": o.cost,
                }
                for o in self.disagreements
            ],
        }


def ask_device(
    program: Program,
    placements: Sequence[Placement],
    compute_units: str = "cpu_and_ne",
    load: Callable[[Path, str], Any] | None = None,
) -> DevicePlan:
    """Asks Core ML for its plan and sets it beside the prediction.

    Args:
        program: The program.
        placements: The prediction for it.
        compute_units: Which devices Core ML may take, by coremltools' name.
        load: Returns the plan of a package for compute units; None asks Core ML. Tests inject a plan here.

    Raises:
        RuntimeUnavailableError: This is not macOS, or its version has no compute plans.
        PackageError: Core ML cannot compile the package, or its plan is of other operations.
    """
    plan = (load or load_plan)(program.path, compute_units)
    structure = plan.model_structure.program
    function = None if structure is None else structure.functions.get(program.function)
    if function is None:
        raise PackageError(f"{program.path}: Core ML's plan has no function {program.function!r}")
    planned = {o.outputs[0].name: o for o in _all_operations(function.block) if o.outputs}
    found = [(placement, planned.get(placement.operation.name)) for placement in placements]
    if not any(operation for _, operation in found):
        raise PackageError(f"{program.path}: Core ML's plan names none of the program's operations")
    operations = tuple(_planned(placement, operation, plan) for placement, operation in found)
    return DevicePlan(compute_units, _system(), operations)


def load_plan(mlpackage: Path, compute_units: str) -> Any:
    """Compiles a package and returns coremltools' `MLComputePlan` of it.

    Args:
        mlpackage: The `.mlpackage`.
        compute_units: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"` or `"cpu_only"`.

    Raises:
        RuntimeUnavailableError: This is not macOS, or its version has no compute plans.
        PackageError: Core ML cannot compile the package.
    """
    if sys.platform != "darwin":
        raise RuntimeUnavailableError("--device asks Core ML and needs macOS; leave it out on this machine")
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan
    from coremltools.models.utils import compile_model

    from optimum_ane.runtimes.coreml import COPY, copy_if_linked

    copy = copy_if_linked(mlpackage)
    source = str(mlpackage) if copy is None else os.path.join(copy.path, COPY)
    with WorkingFolder.temporary() as directory:
        try:
            compiled = compile_model(source, os.path.join(directory, "model.mlmodelc"))
            return MLComputePlan.load_from_path(compiled, ct.ComputeUnit[compute_units.upper()])
        except ValueError as error:
            raise RuntimeUnavailableError(
                f"this macOS has no compute plans ({error}); macOS 14.4 and later do"
            ) from error
        except Exception as error:  # coremltools raises whatever Core ML stumbles over
            raise PackageError(f"Core ML cannot plan {mlpackage}: {error}") from error


def _all_operations(block: Any) -> Iterator[Any]:
    """Yields the operations of a block and of those in it."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _all_operations(inner)


def _planned(placement: Placement, operation: Any, plan: Any) -> PlannedOperation:
    """Reads what the plan says of one operation, if it knows it."""
    if operation is None:
        return PlannedOperation(placement, None, (), None)
    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
    cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
    return PlannedOperation(
        placement,
        None if usage is None else _name(usage.preferred_compute_device),
        () if usage is None else tuple(_name(device) for device in usage.supported_compute_devices),
        None if cost is None else float(cost.weight),
    )


def _name(device: Any) -> str:
    return _DEVICES.get(type(device).__name__, type(device).__name__)


def _count_devices(operations: Sequence[PlannedOperation]) -> Mapping[str, int]:
    """Counts operations by device; `"unknown"` where Core ML does not say."""
    devices = [operation.device or "unknown" for operation in operations]
    return {device: devices.count(device) for device in dict.fromkeys(devices)}


def _system() -> str:
    """Returns the system's name and version: another version may plan otherwise."""
    return f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.platform()
