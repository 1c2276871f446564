"""The sections of what was measured when the package was made: its road, parity, accuracy and compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimum_ane.analysis.html_report import figures
from optimum_ane.analysis.html_report.parts import Code, Fact, Figure, Part, Section, Table, Text
from optimum_ane.hub.facts import CardPackage, accuracy_rows, decibels, drop, headline, size

_INFINITE = 160.0
"""dB. Where a bar of an infinite ratio, of equal answers, ends."""


def road(package: CardPackage) -> Section:
    """How the package was made: the command, the facts of it, and the seconds of each stage."""
    config = package.config
    parts: list[Part] = []
    command = package.report.get("command")
    if isinstance(command, str):
        parts.append(Code(command))
    rows = [
        ("task", config.task),
        ("architecture", config.model_type),
        ("shape", f"{config.batch_size} × {config.sequence_length} tokens"),
        ("precision", config.precision),
        ("compression", config.compression or "none"),
        ("runs on", f"{package.systems} and later"),
        ("made from", config.source_name + (f" at {config.source_revision}" if config.source_revision else "")),
        ("versions", ", ".join(f"{name} {number}" for name, number in config.versions.items())),
        ("machine", _text(package.report.get("machine"))),
    ]
    parts.append(Table(("", ""), rows))
    seconds = package.numbers("seconds")
    if seconds:
        parts.append(Figure(figures.bars(seconds, "seconds")))
    return Section("road", "How it was made", parts, [Fact("on disk", size(package))])


def parity(package: CardPackage) -> Section:
    """PSNR of outputs and layers against the original."""
    outputs, layers = package.numbers("package_psnr"), package.numbers("layers")
    modules = package.numbers("module_psnr")
    if not outputs:
        return Section(
            "parity", "Parity", [Text("Nothing was compared with the original: exported with --no-validate.")]
        )
    threshold = package.number("psnr_threshold")
    rows = [(name, decibels(modules.get(name)), decibels(ratio)) for name, ratio in outputs.items()]
    parts: list[Part] = [
        Text(
            f"PSNR against the original on seeded inputs, padding left out. The package itself was run, by the "
            f"{_text(package.report.get('runtime'))} runtime"
            + ("." if threshold is None else f"; it was accepted at {threshold:g} dB or more.")
        ),
        Table(("output", "module in float32", "package"), rows, ("module in float32", "package")),
    ]
    if layers:
        parts.append(Text("Each layer's output in the package against the same layer's in the original:"))
        shown = {name: min(ratio, _INFINITE) for name, ratio in layers.items()}
        parts.append(Figure(figures.bars(shown, "dB", limit=threshold)))
    return Section("parity", "Parity", parts, [Fact("PSNR, lowest output", decibels(min(outputs.values())))])


def accuracy(package: CardPackage) -> Section:
    """The comparison on a dataset."""
    rows = accuracy_rows(package, show=str)
    if not rows:
        return Section("accuracy", "Accuracy", [Text("No dataset was named, so no accuracy was measured.")])
    runtime = _text((package.accuracy or {}).get("runtime"))
    facts = [Fact("accuracy, original → package", headline(package)), Fact("drop", drop(package).split(",")[0])]
    return Section("accuracy", "Accuracy", [Table(("", ""), rows), Text(f"Runtime: {runtime}.", True)], facts)


def compression(package: CardPackage) -> Section:
    """What the recipe covered."""
    report = package.report.get("compression")
    weights = report.get("weights") if isinstance(report, Mapping) else None
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        return Section("compression", "Compression")
    ratio = package.number("compression", "ratio_to_float16")
    rows = [_weight(weight) for weight in weights if isinstance(weight, Mapping)]
    columns = ("weight", "shape", "KB before", "KB after", "became", "PSNR")
    parts: list[Part] = [Table(columns, rows, ("KB before", "KB after", "PSNR"))]
    facts = []
    if ratio is not None:
        parts.insert(0, Text(f"Recipe {package.config.compression}: weights at {ratio:.1%} of their size in float16."))
        facts.append(Fact("weights against float16", f"{ratio:.1%}"))
    return Section("compression", "Compression", parts, facts)


def _weight(weight: Mapping[str, Any]) -> tuple[str, ...]:
    shape = weight.get("shape")
    became = weight.get("form") or f"unchanged: {_text(weight.get('skipped'))}"
    return (
        _text(weight.get("name")),
        " × ".join(map(str, shape)) if isinstance(shape, list) else "–",
        _kilobytes(weight.get("bytes_before")),
        _kilobytes(weight.get("bytes_after")),
        str(became),
        decibels(_number(weight.get("psnr"))),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "–"


def _number(value: Any) -> float | None:
    if value == "inf":
        return math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _kilobytes(value: Any) -> str:
    number = _number(value)
    return "–" if number is None else f"{number / 1e3:.1f}"
