"""Regions: runs of operations on one device, as few as the order of the data allows.

Core ML cuts a program where the device changes, and each cut costs a fixed time, whatever the work on either side
(0.6 ms and more: john-rocky/coreai-model-zoo, knowledge/coreai-ane-partition-cost.md). So regions count, not single
operations. Operations that do not depend on each other may run in any order: a look-up of embeddings that stands in
the middle of the text but only reads an input does not cut anything. Nor does what only gives a value another shape:
it runs wherever that value is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal

from optimum_ane.analysis.operations import STATE_WRITES, Operation, Tensor
from optimum_ane.analysis.residency import Placement

Device = Literal["ane", "cpu"]
Position = Literal["start", "middle", "end"]

_STATEFUL = STATE_WRITES | {"read_state"}
_VIEWS = frozenset(("reshape", "expand_dims", "squeeze", "flatten2d", "identity"))
"""What gives a value another shape, on either device alike."""

_Place = Literal["ane", "cpu", "either"]


@dataclass(frozen=True)
class Region:
    """Operations that run on one device without a break.

    Attributes:
        device: `"ane"`, or `"cpu"` for all else: Core ML may take the GPU where it is allowed to.
        operations: In an order in which they can run.
    """

    device: Device
    operations: tuple[Operation, ...]

    @property
    def flops(self) -> int:
        """Arithmetic of the region, 2 per multiply-add."""
        return sum(operation.flops for operation in self.operations)


@dataclass(frozen=True)
class Offender:
    """An operation off the engine.

    Attributes:
        placement: The operation and the rule.
        position: `"start"` and `"end"`: it runs before or behind all work of the engine, which is cheap; `"middle"`:
            it stands between two regions of the engine.
    """

    placement: Placement
    position: Position


@dataclass
class _Unit:
    """What runs in one piece: an operation, with its body if it is a loop or a branch."""

    place: _Place
    operations: list[Operation]


def device_of(placement: Placement) -> Device:
    """Returns where an operation counts: what is on the engine only under a condition counts as on it."""
    return "cpu" if placement.verdict == "fallback" else "ane"


def partition(placements: Sequence[Placement]) -> tuple[Region, ...]:
    """Cuts a program into regions.

    From each start, on the engine or off it, every operation whose operands are there is run until none of this
    device is left; then the device changes. What only gives a value another shape is run at once, on either. For two
    devices no order has fewer regions than the better of these two starts: whatever an order has run before its n-th
    change, this one has run as well.

    Args:
        placements: As `residency.place` makes them, in the order of the program.

    Returns:
        The regions in the order in which they run. One change of device lies between each two.
    """
    units = _units(placements)
    if not units:
        return ()
    first: Device = "cpu" if next((u.place for u in units if u.place != "either"), "ane") == "cpu" else "ane"
    other: Device = "cpu" if first == "ane" else "ane"
    return min((_schedule(units, start) for start in (first, other)), key=len)


def crossings(regions: Sequence[Region]) -> int:
    """Returns how often the work changes from one device to the other."""
    return max(0, len(regions) - 1)


def find_offenders(placements: Sequence[Placement], regions: Sequence[Region]) -> tuple[Offender, ...]:
    """Finds what is off the engine, in the order of the program, and says where it stands.

    Args:
        placements: All of them.
        regions: Their partition.
    """
    engine = [i for i, region in enumerate(regions) if region.device == "ane"]
    positions: dict[Operation, Position] = {}
    for i, region in enumerate(regions):
        position: Position = "start" if not engine or i < engine[0] else "end" if i > engine[-1] else "middle"
        positions.update(dict.fromkeys(region.operations, position))
    return tuple(Offender(p, positions[p.operation]) for p in placements if device_of(p) == "cpu")


def worst_offender(offenders: Sequence[Offender]) -> Offender | None:
    """Returns the one whose fall costs most: one that cuts the engine's work first, then by FLOPs, then by results."""

    def key(offender: Offender) -> tuple[bool, int, int, int]:
        operation = offender.placement.operation
        made = sum(tensor.dense_bytes for tensor in operation.outputs)
        return offender.position == "middle", operation.flops, made, -operation.index

    return max(offenders, key=key, default=None)


def _units(placements: Iterable[Placement]) -> list[_Unit]:
    """Joins the bodies of loops and branches to the operation that they belong to."""
    units: list[_Unit] = []
    for placement in placements:
        if placement.operation.depth and units:
            units[-1].operations.append(placement.operation)
        else:
            is_view = placement.operation.type in _VIEWS and placement.verdict != "fallback"
            units.append(_Unit("either" if is_view else device_of(placement), [placement.operation]))
    return units


def _followers(units: Sequence[_Unit]) -> tuple[list[list[int]], list[int]]:
    """Returns for each unit which others wait for it, and how many it waits for itself."""
    maker: dict[Tensor, int] = {}
    touched: dict[Tensor, int] = {}
    followers: list[list[int]] = [[] for _ in units]
    waiting = [0] * len(units)
    for number, unit in enumerate(units):
        before: set[int] = set()
        for operation in unit.operations:
            before.update(maker[tensor] for tensor in operation.operands if tensor in maker)
            if operation.type in _STATEFUL:
                # Reading and writing a state happen in the order of the program, though no value says so.
                before.update(touched[tensor] for tensor in operation.operands if tensor in touched)
                touched.update(dict.fromkeys(operation.operands, number))
            maker.update(dict.fromkeys(operation.outputs, number))
        before.discard(number)
        waiting[number] = len(before)
        for other in before:
            followers[other].append(number)
    return followers, waiting


def _schedule(units: Sequence[_Unit], device: Device) -> tuple[Region, ...]:
    """Runs all that can run on a device, then on the other, and so on; in the program's order within a region."""
    followers, waiting = _followers(units)
    ready: dict[_Place, list[int]] = {"ane": [], "cpu": [], "either": []}
    for number, unit in enumerate(units):
        if not waiting[number]:
            ready[unit.place].append(number)
    for numbers in ready.values():
        heapify(numbers)
    regions = []
    while any(ready.values()):
        operations: list[Operation] = []
        while ready[device] or ready["either"]:
            own: tuple[_Place, _Place] = (device, "either")
            number = heappop(min((ready[place] for place in own if ready[place]), key=lambda numbers: numbers[0]))
            operations += units[number].operations
            for follower in followers[number]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heappush(ready[units[follower].place], follower)
        if operations:
            regions.append(Region(device, tuple(operations)))
        device = "cpu" if device == "ane" else "ane"
    return tuple(regions)
