"""Prints an inspection on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from optimum_ane.analysis.compute_plan import DevicePlan
from optimum_ane.analysis.cost import BOUNDS, CostEstimate
from optimum_ane.analysis.decoder_package import DecoderInspection
from optimum_ane.analysis.inspection import VERDICTS, Inspection, RuleGroup
from optimum_ane.analysis.lint import Finding
from optimum_ane.analysis.memory import Memory
from optimum_ane.analysis.partition import Offender
from optimum_ane.analysis.wording import PLACES, audience, group_text, rule_lines, shape_text, some_names
from optimum_ane.screen import make_console

_REGIONS_SHOWN = 9
_SLOWEST_SHOWN = 5
_DISAGREEMENTS_SHOWN = 20


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Prints what is predicted: the summary, where operations run, what keeps them off the engine, memory and cost.

    Args:
        inspection: What to print.
        console: Where to; None is stdout.
    """
    console = console or make_console()
    program, device = inspection.program, audience(inspection.chip)
    console.print(f"{program.path.name}, function {program.function}: a prediction for {device}, nothing was run")
    if program.others:
        console.print(f"other functions, with --function: {', '.join(program.others)}")
    if program.has_unknown_shapes:
        console.print("some shapes are known only when the program runs: the numbers below are lower bounds")
    console.print(_devices(inspection))
    shown = [f"{region.device} {len(region.operations)}" for region in inspection.regions[:_REGIONS_SHOWN]]
    hidden = ["…"] if len(inspection.regions) > _REGIONS_SHOWN else []
    console.print(f"regions: {len(inspection.regions)}, crossings between devices: {inspection.crossings}")
    console.print(f"operations in each: {' → '.join(shown + hidden)}")
    if inspection.offenders:
        first, worst = inspection.offenders[0], inspection.worst
        console.print(f"first{' and worst' if worst is first else ''} off the engine: {_named(first)}")
        if worst is not None and worst is not first:
            console.print(f"worst off the engine: {_named(worst)}")
    print_findings([inspection], console)
    groups = inspection.groups()
    if groups:
        console.print("\nNot surely on the engine")
    for group in groups:
        _print_group(group, console)
    console.print()
    _print_memory(inspection.memory, console)
    if inspection.cost is not None:
        _print_cost(inspection.cost, console)


def print_findings(inspections: Sequence[Inspection], console: Console | None = None) -> None:
    """Prints the rules for states and functions that functions break, each once.

    Args:
        inspections: Of the functions.
        console: Where to; None is stdout.
    """
    console = console or make_console()
    broken: dict[str, list[Finding]] = {}
    for finding in (each for inspection in inspections for each in inspection.findings):
        broken.setdefault(finding.rule.id, []).append(finding)
    if broken:
        console.print("\nRules for states and functions that it breaks")
    for findings in broken.values():
        rule = findings[0].rule
        console.print(f"{rule.id} ({rule.severity})")
        names = list(dict.fromkeys(name for finding in findings for name in finding.names))
        for line in (some_names(names), *rule_lines(rule)):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


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
    return f"{operation.type} {operation.name}, {PLACES[offender.position]} ({offender.placement.rule.id})"


def _print_group(group: RuleGroup, console: Console) -> None:
    """Says what a rule decides here, why, what to do about it, and who says so."""
    console.print(f"{group.rule.id} ({group.rule.verdict}): {group_text(group)}")
    for line in (some_names([operation.name for operation in group.operations]), *rule_lines(group.rule)):
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


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
    console.print(f"weights: {memory.weight_bytes / 1e6:.2f} MB, what several share counted once")
    console.print(
        f"activations: at most {memory.peak_bytes / 1e6:.2f} MB alive at once, at {memory.peak_at or 'the inputs'}; "
        f"{memory.padded_peak_bytes / 1e6:.2f} MB with each last axis padded to 64 bytes"
    )
    console.print(f"padding of all values together: {memory.padding_bytes / 1e6:.2f} MB")
    if memory.worst_padding:
        padded = Table("value", "shape", title="Padded most", title_justify="left")
        for heading in ("bytes", "padded", "times"):
            padded.add_column(heading, justify="right")
        for value in memory.worst_padding:
            padded.add_row(
                value.name, shape_text(value.shape), str(value.bytes), str(value.padded_bytes), f"{value.factor:.0f}"
            )
        console.print(padded)
    for held in memory.held:
        kind = "state" if held.is_state else "cache, passed in and out"
        console.print(f"{kind}: {held.name}, {held.dtype} {shape_text(held.shape)}, {held.bytes / 1e6:.2f} MB")


def _print_cost(cost: CostEstimate, console: Console) -> None:
    console.print(
        f"\nlatency on {cost.chip.name}, an estimate: {cost.typical_ms:.2f} ms, "
        f"likely {cost.low_ms:.2f} to {cost.high_ms:.2f}; most of it {cost.bound}"
    )
    parts = ", ".join(f"{name} {getattr(cost.parts, name):.2f} ms" for name in BOUNDS)
    console.print(f"of it: {parts}; crossings are changes of device and the CPU's work")
    for assumption in cost.assumptions:
        console.print(f"assumed: {assumption}")
    paid = [each for each in cost.operations if each.milliseconds]
    slowest = sorted(paid, key=lambda each: -each.milliseconds)[:_SLOWEST_SHOWN]
    table = Table("operation", "type", title="Operations that cost most, estimated", title_justify="left")
    table.add_column("µs", justify="right")
    table.add_column("bound by")
    for each in slowest:
        table.add_row(each.operation.name, each.operation.type, f"{each.milliseconds * 1e3:.1f}", each.parts.bound)
    console.print(table)


def print_decoder(decoder: DecoderInspection, console: Console | None = None) -> None:
    """Prints what a decoder's functions take together, and how fast it may be.

    Args:
        decoder: What to print.
        console: Where to; None is stdout.
    """
    console = console or make_console()
    chip = "" if decoder.chip is None else f", ms estimated for {decoder.chip.name}"
    table = Table("function", title=f"{decoder.path.name}: a decoder with a cache{chip}", title_justify="left")
    for heading in ("programs", "tokens", "weights, MB", "cache, MB", "peak, MB"):
        table.add_column(heading, justify="right")
    if decoder.chip is not None:
        table.add_column("ms", justify="right")
    for function in decoder.functions:
        cells = [
            str(len(function.inspections)),
            str(function.tokens),
            f"{function.weight_bytes / 1e6:.2f}",
            f"{function.cache_bytes / 1e6:.2f}",
            f"{function.activation_bytes / 1e6:.2f}",
        ]
        if function.milliseconds is not None:
            cells.append(f"{function.milliseconds:.2f}")
        table.add_row(function.name, *cells)
    console.print(table)
    names = " and ".join(function.name for function in decoder.loaded)
    console.print(
        f"to generate, {names} are loaded: an estimated {decoder.loaded_bytes / 1e6:.1f} MB, each function with a "
        "copy of its weights, over one cache (peak: activations that are alive at once)"
    )
    speed = decoder.speed
    if speed is not None:
        first, rate = speed.first_token_ms, speed.tokens_per_second
        console.print(
            f"first token of a prompt of {speed.prompt_length}, an estimate: {first.typical:.1f} ms, likely "
            f"{first.low:.1f} to {first.high:.1f}; then {rate.typical:.1f} tokens a second, likely {rate.low:.1f} to "
            f"{rate.high:.1f}, without the host's share. docs/decoder-speed.md has such estimates beside published "
            "speeds, most of which were lower"
        )


def print_device_plan(plan: DevicePlan, console: Console | None = None) -> None:
    """Prints Core ML's plan beside the prediction.

    Args:
        plan: What Core ML answered.
        console: Where to; None is stdout.
    """
    console = console or make_console()
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
