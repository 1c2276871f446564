"""The sections of what is predicted from the program alone: residency, memory and cost."""

from __future__ import annotations

from itertools import accumulate

from optimum_ane.analysis.chips import chip_names, get_chip
from optimum_ane.analysis.cost import CostEstimate, estimate
from optimum_ane.analysis.html_report import figures
from optimum_ane.analysis.html_report.parts import Figure, Finding, KeyNumber, Legend, Part, Section, Table, Text
from optimum_ane.analysis.inspection import VERDICTS, Inspection
from optimum_ane.analysis.partition import Region, partition
from optimum_ane.analysis.residency import place
from optimum_ane.analysis.wording import audience, group_text, rule_lines, shape_text, some_names

_REGIONS_SHOWN = 24
_COSTLIEST_SHOWN = 8


def residency(inspection: Inspection) -> Section:
    """Where the operations are predicted to run, and why not on the engine."""
    device = audience(inspection.chip)
    verdict_of = {placement.operation: placement.verdict for placement in inspection.placements}
    verdicts = [verdict_of[operation] for region in inspection.regions for operation in region.operations]
    cuts = list(accumulate(len(region.operations) for region in inspection.regions))[:-1]
    counts = {verdict: inspection.shares[verdict].operations for verdict in VERDICTS}
    regions = inspection.regions
    sequence = " → ".join(f"{region.device} {len(region.operations)}" for region in regions[:_REGIONS_SHOWN])
    parts: list[Part] = [
        Text(
            f"A prediction for {device}, from public sources: Apple publishes no list of what the Neural Engine "
            "takes, and nothing here was run on one."
        ),
        Legend(counts),
        Figure(figures.strip(verdicts, cuts=cuts)),
        Text(
            f"{_count(len(regions), 'region')}, {_count(inspection.crossings, 'crossing')} between devices, marked "
            f"above: {sequence}{' → …' if len(regions) > _REGIONS_SHOWN else ''}"
        ),
        Table(
            ("verdict", "operations", "GFLOP", "% of FLOPs", "MB read and written"),
            [
                (
                    verdict,
                    str(counts[verdict]),
                    f"{inspection.shares[verdict].flops / 1e9:.4f}",
                    f"{100 * inspection.flops_share(verdict):.2f}",
                    f"{inspection.shares[verdict].bytes / 1e6:.2f}",
                )
                for verdict in VERDICTS
            ],
            ("operations", "GFLOP", "% of FLOPs", "MB read and written"),
        ),
    ]
    parts += [
        Finding(
            group.rule.id,
            group.rule.verdict,
            f"{group_text(group)}: {some_names([operation.name for operation in group.operations])}",
            rule_lines(group.rule),
        )
        for group in inspection.groups()
    ]
    parts += [
        Finding(found.rule.id, found.rule.severity, some_names(found.names), rule_lines(found.rule))
        for found in inspection.findings
    ]
    share = inspection.flops_share("ane")
    return Section(
        "residency",
        "Predicted residency",
        parts,
        [
            KeyNumber("arithmetic on the Neural Engine, predicted", f"{share:.1%}"),
            KeyNumber("regions, predicted", str(len(regions))),
        ],
    )


def memory(inspection: Inspection) -> Section:
    """What the program takes, and what padding adds."""
    held = inspection.memory
    sizes = {
        "weights as stored": held.weight_bytes / 1e6,
        "weights decoded": held.dense_weight_bytes / 1e6,
        "activations at their peak": held.peak_bytes / 1e6,
        "the same, padded": held.padded_peak_bytes / 1e6,
    }
    parts: list[Part] = [
        Figure(figures.bars(sizes, "MB")),
        Table(
            ("weights", "stored as", "arrays", "MB stored", "MB decoded"),
            [
                (
                    group.dtype,
                    group.stored_dtype,
                    str(group.count),
                    f"{group.stored_bytes / 1e6:.2f}",
                    f"{group.dense_bytes / 1e6:.2f}",
                )
                for group in held.weights
            ],
            ("arrays", "MB stored", "MB decoded"),
        ),
        Text(
            f"Activations are at their peak at {held.peak_at or 'the inputs'}. The engine pads each last axis to 64 "
            f"bytes, which adds {held.padding_bytes / 1e6:.2f} MB to all values together."
        ),
    ]
    if held.worst_padding:
        rows = [
            (value.name, shape_text(value.shape), str(value.bytes), str(value.padded_bytes), f"{value.factor:.0f}")
            for value in held.worst_padding
        ]
        parts.append(Table(("padded most", "shape", "bytes", "padded", "times"), rows, ("bytes", "padded", "times")))
    parts += [
        Text(f"{'State' if each.is_state else 'Cache'} {each.name}: {each.dtype} {shape_text(each.shape)}.")
        for each in held.held
    ]
    return Section("memory", "Memory", parts)


def cost(inspection: Inspection) -> Section:
    """The estimated latency on each chip with what bounds it, and which operations take it."""
    estimates = _estimates(inspection)
    ranges = {name: (each.low_ms, each.typical_ms, each.high_ms) for name, each in estimates.items()}
    own = estimates[chip_names()[0] if inspection.chip is None else inspection.chip.name]
    verdicts = {placement.operation: placement.verdict for placement in inspection.placements}
    total = sum(each.milliseconds for each in own.operations) or 1.0
    shares = [100 * each.milliseconds / total for each in own.operations]
    parts: list[Part] = [
        Text(
            "An estimate of one prediction's latency: a roofline fitted to published measurements. The range is that "
            "of nine in ten of them. No package of this library was timed on a device."
        ),
        Figure(figures.ranges(ranges, "ms, estimated", {name: each.bound for name, each in estimates.items()})),
        Text("The dot and the number are the typical estimate; the word is what most of the time goes to.", soft=True),
        Text(f"The operations again, each as wide as its share of the estimated time on {own.chip.name}:"),
        Figure(figures.strip([verdicts[each.operation] for each in own.operations], shares)),
        _costliest(own),
    ]
    key_numbers = []
    if inspection.chip is not None:
        key_numbers.append(KeyNumber(f"ms on {own.chip.name}, estimated", f"{own.low_ms:.2g} to {own.high_ms:.2g}"))
    return Section("cost", "Estimated cost", parts, key_numbers)


def _costliest(own: CostEstimate) -> Table:
    costliest = sorted(own.operations, key=lambda each: -each.milliseconds)[:_COSTLIEST_SHOWN]
    rows = [
        (each.operation.name, each.operation.type, f"{each.milliseconds:.3g}", each.parts.bound) for each in costliest
    ]
    return Table((f"costliest on {own.chip.name}", "operation", "ms, estimated", "bound by"), rows, ("ms, estimated",))


def _estimates(inspection: Inspection) -> dict[str, CostEstimate]:
    """Estimates for every chip; what runs where differs by generation, so each is placed once."""
    program, regions = inspection.program, dict[str, tuple[Region, ...]]()
    estimates = {}
    for chip in map(get_chip, chip_names()):
        if chip.generation not in regions:
            regions[chip.generation] = partition(place(program, chip))
        estimates[chip.name] = estimate(program, regions[chip.generation], chip)
    return estimates


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
