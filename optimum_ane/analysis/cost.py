"""What a prediction costs on a chip: a roofline estimate, with what bounds it and a range. It is never a measurement.

For each operation on the engine

    t = max(weights / bandwidth, flops / (share · peak) + activations / (k · bandwidth))

since weights are known beforehand and stream in behind the arithmetic, where activations are not. `share` is that of
the operation's kind. k falls to 1 where the activations exceed the cache. An operation on the CPU costs its
activations at the speed at which the CPU takes them over and hands them back. To the sum come the dispatch and each
change of device. How the numbers were found and how far off they are: docs/cost-model.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from optimum_ane.analysis.chips import Chip, Engine, assume
from optimum_ane.analysis.cost_parameters import CostParameters, cost_parameters
from optimum_ane.analysis.operations import Operation, Program, Tensor
from optimum_ane.analysis.partition import Region
from optimum_ane.analysis.steps import Step, is_converting, read_steps

Bound = Literal["weights", "activations", "arithmetic", "crossings", "dispatch"]
BOUNDS: tuple[str, ...] = get_args(Bound)

_STREAMED_FROM = {"int8": "h14", "int4": "h15"}
"""The generation from which weights of this stored type reach the engine as they are: before, they are unfolded to
fp16 when the program is loaded. Tables (palettes) are streamed on all (john-rocky/coreai-model-zoo, knowledge/
ane-silicon-reference.md; seen through private interfaces)."""


@dataclass(frozen=True)
class Parts:
    """Milliseconds by cause.

    Attributes:
        weights: Waiting for weights.
        activations: Moving activations between operations.
        arithmetic: Computing.
        crossings: Changes of device, and work on the CPU with the conversions that go with it.
        dispatch: Submitting the program.
    """

    weights: float = 0.0
    activations: float = 0.0
    arithmetic: float = 0.0
    crossings: float = 0.0
    dispatch: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return sum(getattr(self, name) for name in BOUNDS)

    @property
    def bound(self) -> Bound:
        """The largest part; of equal ones the first."""
        return max(get_args(Bound), key=lambda name: float(getattr(self, name)))

    def plus(self, other: Parts) -> Parts:
        """Adds another's parts."""
        return Parts(*(getattr(self, name) + getattr(other, name) for name in BOUNDS))


@dataclass(frozen=True)
class OperationCost:
    """What one operation costs.

    Attributes:
        operation: The operation.
        parts: Milliseconds by cause.
    """

    operation: Operation
    parts: Parts

    @property
    def milliseconds(self) -> float:
        """Altogether."""
        return self.parts.total


@dataclass(frozen=True)
class CostEstimate:
    """An estimate of the latency of one prediction on a warm engine, not a measurement.

    Attributes:
        chip: The chip.
        low_ms: Nine in ten published latencies were above their low estimate.
        typical_ms: The estimate, milliseconds.
        high_ms: Nine in ten published latencies were below their high estimate.
        parts: The typical estimate by cause.
        operations: The cost of each operation that is placed, in the order of the program.
        assumptions: What the chip's unknown numbers were replaced by.
    """

    chip: Chip
    low_ms: float
    typical_ms: float
    high_ms: float
    parts: Parts
    operations: tuple[OperationCost, ...]
    assumptions: tuple[str, ...]

    @property
    def bound(self) -> Bound:
        """What most of the time goes to."""
        return self.parts.bound


def estimate(
    program: Program, regions: Sequence[Region], chip: Chip, parameters: CostParameters | None = None
) -> CostEstimate:
    """Estimates the latency of one prediction.

    Args:
        program: The program; a loop's body counts once.
        regions: Its partition, as `partition` makes it.
        chip: The chip, from `get_chip`.
        parameters: Of the model; None takes those that come with this library.

    Returns:
        The estimate.
    """
    parameters = parameters or cost_parameters()
    engine = assume(chip)
    hosted = {operation for region in regions if region.device == "cpu" for operation in region.operations}
    placed = {operation for region in regions for operation in region.operations}
    order = [operation for operation in program.operations if operation in placed]
    costs = [
        OperationCost(operation, step_cost(_streamed(step, operation, chip), engine, parameters))
        for operation, step in zip(order, read_steps(order, hosted), strict=True)
    ]
    total = fixed_cost(len(order) > len(hosted), device_changes(regions), engine, parameters)
    for cost in costs:
        total = total.plus(cost.parts)
    assumptions = list(engine.assumptions)
    if program.has_unknown_shapes:
        assumptions.append("unknown extents count as 1: the estimate is a lower bound")
    return CostEstimate(
        chip=chip,
        low_ms=total.total * parameters.low,
        typical_ms=total.total,
        high_ms=total.total * parameters.high,
        parts=total,
        operations=tuple(costs),
        assumptions=tuple(assumptions),
    )


def device_changes(regions: Sequence[Region]) -> int:
    """Counts changes of device.

    A region on the CPU at the program's start or end that only converts types is none: Core ML converts inputs and
    outputs itself.
    """
    counted = list(regions)
    for edge in (0, -1):
        if counted and counted[edge].device == "cpu" and all(map(is_converting, counted[edge].operations)):
            del counted[edge]
    return max(0, len(counted) - 1)


def step_cost(step: Step, engine: Engine, parameters: CostParameters) -> Parts:
    """Prices one step.

    Args:
        step: As `read_steps` describes an operation.
        engine: From `assume`.
        parameters: Of the model.

    Returns:
        Milliseconds: either of weights, or of arithmetic and activations, whichever take longer.
    """
    if step.kind == "free":
        return Parts()
    if step.kind == "host":
        return Parts(crossings=(step.activation_bytes + step.weight_bytes) / (parameters.host_gbs * 1e6))
    bandwidth = engine.bandwidth_gbs * 1e6  # bytes per millisecond
    fits = step.activation_bytes <= parameters.spill_mb * 1e6
    activations = step.activation_bytes / (bandwidth * (parameters.activation_bandwidth if fits else 1))
    share = _share(step, parameters)
    arithmetic = step.flops / (share * engine.tflops * 1e9) if share else 0.0
    weights = step.weight_bytes / bandwidth
    if weights > arithmetic + activations:
        return Parts(weights=weights)
    return Parts(arithmetic=arithmetic, activations=activations)


def fixed_cost(uses_engine: bool, crossings: int, engine: Engine, parameters: CostParameters) -> Parts:
    """Prices what does not depend on the operations: dispatch, if the engine is used at all, and changes of device."""
    return Parts(dispatch=engine.dispatch_ms * uses_engine, crossings=crossings * parameters.crossing_ms)


def _share(step: Step, parameters: CostParameters) -> float:
    """The share of the peak of a step's kind; 0 for what is bound by memory only."""
    shares = {
        "convolution": parameters.convolution_share,
        "einsum": parameters.einsum_share,
        "linear": parameters.linear_share,
    }
    return shares.get(step.kind, 0.0)


def _streamed(step: Step, operation: Operation, chip: Chip) -> Step:
    """Counts weights dense that this chip's engine takes in dense form only; a look-up reads few of them anyway."""
    if not step.weight_bytes or step.kind == "host" or operation.type.startswith("gather"):
        return step
    unfolded = sum(_growth(tensor, chip) for tensor in set(operation.weights))
    return replace(step, weight_bytes=step.weight_bytes + unfolded) if unfolded else step


def _growth(tensor: Tensor, chip: Chip) -> int:
    return unfolded_bytes(tensor.dense_bytes, tensor.stored_bytes or 0, tensor.stored_dtype, chip)


def unfolded_bytes(dense: int, stored: int, stored_dtype: str | None, chip: Chip) -> int:
    """Returns by how much a weight grows when it is loaded: 0 where the chip's engine takes it as it is stored.

    Args:
        dense: Bytes of it in float16.
        stored: Bytes as it is stored.
        stored_dtype: The type of most of what is stored, `"int8"` say.
        chip: The chip.
    """
    since = _STREAMED_FROM.get(stored_dtype or "")
    return dense - stored if since and chip.generation < since else 0
