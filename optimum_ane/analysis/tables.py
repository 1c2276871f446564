"""Prints an inspection on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from optimum_ane.analysis.compute_plan import DevicePlan
from optimum_ane.analysis.cost import BOUNDS, CostEstimate
from optimum_ane.analysis.inspection import VERDICTS, Inspection, RuleGroup
from optimum_ane.analysis.memory import Memory
from optimum_ane.analysis.partition import Offender

_NAMES_SHOWN = 3
_REGIONS_SHOWN = 9
_SLOWEST_SHOWN = 5
_DISAGREEMENTS_SHOWN = 20


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Prints what is predicted: the summary, where operations run, what keeps them off the engine, memory and cost.

    Args:
        inspection: What to print.
        console: Where to; None is stdout.
    """
    console = console or Console(highlight=False, markup=False)
    program, chip = inspection.program, inspection.chip
    device = "any chip from A14 and M1 on" if chip is None else chip.name
    console.print(f"{program.path.name}, function {program.function}: a prediction for {device}, nothing was run")
    if program.has_unknown_shapes:
        console.print("some shapes are known only when the program runs: the numbers below are lower bounds")
    console.print(_devices(inspection))
    shown = [f"{region.device} {len(region.operations)}" for region in inspection.regions[:_REGIONS_SHOWN]]
    hidden = ["…"] if len(inspection.regions) > _REGIONS_SHOWN else []
    console.print(f"regions: {len(inspection.regions)}, crossings between devices: {inspection.crossings}")
    console.print(f"operations in each: {' → '.join(shown + hidden)}")
    if inspection.offenders:
        console.print(f"first off the engine: {_named(inspection.offenders[0])}")
        if inspection.worst is not None:
            console.print(f"costs most: {_named(inspection.worst)}")
    groups = inspection.groups()
    if groups:
        console.print(_rules(groups))
    for group in groups:
        console.print(_explained(group))
    _print_memory(inspection.memory, console)
    if inspection.cost is not None:
        _print_cost(inspection.cost, console)


def _devices(inspection: Inspection) -> Table:
    table = Table("verdict", title="Where it is predicted to run", title_justify="left")
    for heading in ("operations", "GFLOP", "% of FLOPs", "MB read and written"):
        table.add_column(heading, justify="right")
    for verdict in VERDICTS:
        share = inspection.shares[verdict]
        table.add_row(
            verdict,
            str(share.operations),
            f"{share.flops / 1e9:.4f}",
            f"{100 * inspection.flops_share(verdict):.2f}",
            f"{share.bytes / 1e6:.2f}",
        )
    return table


def _named(offender: Offender) -> str:
    operation = offender.placement.operation
    place = {"start": "at the start", "end": "at the end", "middle": "in the middle"}[offender.position]
    return f"{operation.type} {operation.name}, {place} ({offender.placement.rule.id})"


def _rules(groups: tuple[RuleGroup, ...]) -> Table:
    table = Table("rule", "verdict", title="Not surely on the engine", title_justify="left")
    table.add_column("operations", justify="right")
    for heading in ("types", "where", "for example"):
        table.add_column(heading)
    table.add_column("GFLOP", justify="right")
    for group in groups:
        table.add_row(
            group.rule.id,
            group.rule.verdict,
            str(len(group.operations)),
            ", ".join(sorted({operation.type for operation in group.operations})),
            ", ".join(sorted(set(group.positions))),
            ", ".join(operation.name for operation in group.operations[:_NAMES_SHOWN]),
            f"{group.flops / 1e9:.4f}",
        )
    return table


def _explained(group: RuleGroup) -> str:
    rule = group.rule
    return f"{rule.id}: {rule.reason} Remedy: {rule.remedy} Source ({rule.trust}): {rule.source}."


def _print_memory(memory: Memory, console: Console) -> None:
    table = Table("weights", "stored as", title="Memory", title_justify="left")
    for heading in ("arrays", "MB stored", "MB decoded"):
        table.add_column(heading, justify="right")
    for group in memory.weights:
        table.add_row(
            group.dtype,
            group.stored_dtype,
            str(group.count),
            f"{group.stored_bytes / 1e6:.2f}",
            f"{group.dense_bytes / 1e6:.2f}",
        )
    console.print(table)
    console.print(
        f"activations: at most {memory.peak_bytes / 1e6:.2f} MB alive at once, at {memory.peak_at or 'the inputs'}; "
        f"{memory.padded_peak_bytes / 1e6:.2f} MB with each last axis padded to 64 bytes"
    )
    if memory.worst_padding:
        padded = Table("value", "shape", title="Padded most", title_justify="left")
        for heading in ("bytes", "padded", "times"):
            padded.add_column(heading, justify="right")
        for value in memory.worst_padding:
            shape = " × ".join("?" if extent is None else str(extent) for extent in value.shape)
            padded.add_row(value.name, shape, str(value.bytes), str(value.padded_bytes), f"{value.factor:.0f}")
        console.print(padded)
    for held in memory.held:
        kind = "state" if held.is_state else "cache, passed in and out"
        shape = " × ".join("?" if extent is None else str(extent) for extent in held.shape)
        console.print(f"{kind}: {held.name}, {held.dtype} {shape}, {held.bytes / 1e6:.2f} MB")


def _print_cost(cost: CostEstimate, console: Console) -> None:
    console.print(
        f"\nlatency on {cost.chip.name}, an estimate: {cost.typical_ms:.2f} ms, "
        f"likely {cost.low_ms:.2f} to {cost.high_ms:.2f}; most of it {cost.bound}"
    )
    parts = ", ".join(f"{name} {getattr(cost.parts, name):.2f} ms" for name in BOUNDS)
    console.print(f"of it: {parts}")
    for assumption in cost.assumptions:
        console.print(f"assumed: {assumption}")
    slowest = sorted(cost.operations, key=lambda each: -each.milliseconds)[:_SLOWEST_SHOWN]
    table = Table("operation", "type", title="Costs most, estimated", title_justify="left")
    table.add_column("ms", justify="right")
    table.add_column("bound by")
    for each in slowest:
        table.add_row(each.operation.name, each.operation.type, f"{each.milliseconds:.3f}", each.parts.bound)
    console.print(table)


def print_device_plan(plan: DevicePlan, console: Console | None = None) -> None:
    """Prints Core ML's plan beside the prediction.

    Args:
        plan: What Core ML answered.
        console: Where to; None is stdout.
    """
    console = console or Console(highlight=False, markup=False)
    answer = plan.to_dict()
    counts = ", ".join(f"{count} {device}" for device, count in answer["operations"].items())
    console.print(f"Core ML's plan on {plan.system} for {plan.compute_units}: {counts}")
    if plan.agreement is not None:
        console.print(f"{100 * plan.agreement:.1f} % of the definite predictions agree with it")
    if answer["conditional_operations"]:
        counts = ", ".join(f"{count} {device}" for device, count in answer["conditional_operations"].items())
        console.print(f"the conditional ones: {counts}")
    if not plan.disagreements:
        return
    table = Table("operation", "type", "predicted", "rule", "Core ML", title="Where they differ", title_justify="left")
    for planned in plan.disagreements[:_DISAGREEMENTS_SHOWN]:
        operation = planned.placement.operation
        rule = planned.placement.rule
        table.add_row(operation.name, operation.type, planned.placement.verdict, rule.id, planned.device)
    console.print(table)
    hidden = len(plan.disagreements) - _DISAGREEMENTS_SHOWN
    if hidden > 0:
        console.print(f"and {hidden} more; --json lists all")
