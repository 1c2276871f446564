"""The sections of what was measured when the package was made: its road, parity, accuracy and compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimum_ane.analysis.html_report import figures
from optimum_ane.analysis.html_report.parts import Code, Fact, Figure, Part, Section, Table, Text
from optimum_ane.analysis.wording import some_names
from optimum_ane.hub.card_values import CardPackage, accuracy_rows, decibels, headline, size
from optimum_ane.package.metric_format import drop_unit

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
        ("task", config.form.task),
        ("architecture", config.model_type),
        ("shape", f"{config.form.batch_size} × {config.form.longest} tokens"),
        ("precision", config.form.precision),
        ("compression", config.compression or "none"),
        ("runs on", f"{package.systems} and later"),
        ("made from", config.source.name + (f" at {config.source.revision}" if config.source.revision else "")),
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
        line = "" if threshold is None else f"; the line is at {threshold:g} dB"
        parts.append(Text(f"Each layer's output in the package against the same layer's in the original{line}:"))
        parts.append(Figure(figures.bars(layers, "dB", limit=threshold, ceiling=_INFINITE)))
    return Section("parity", "Parity", parts, [Fact("PSNR, lowest output", decibels(min(outputs.values())))])


def accuracy(package: CardPackage) -> Section:
    """The comparison on a dataset."""
    rows = accuracy_rows(package, show=str)
    if not rows:
        return Section("accuracy", "Accuracy", [Text("No dataset was named, so no accuracy was measured.")])
    runtime = _text((package.accuracy or {}).get("runtime"))
    facts = [Fact("accuracy, original → package", headline(package))]
    value, metric = package.number("accuracy", "drop"), str((package.accuracy or {}).get("primary_metric"))
    if value is not None:
        facts.append(Fact(f"drop, {drop_unit(metric)}", f"{value:+.2f}"))
    return Section("accuracy", "Accuracy", [Table(("", ""), rows), Text(f"Runtime: {runtime}.", True)], facts)


def compression(package: CardPackage) -> Section:
    """What the recipe covered."""
    report = package.report.get("compression")
    weights = report.get("weights") if isinstance(report, Mapping) else None
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        return Section("compression", "Compression")
    ratio = package.number("compression", "ratio_to_float16")
    weights = [weight for weight in weights if isinstance(weight, Mapping)]
    columns = ("weight", "shape", "KB before", "KB after", "became", "PSNR")
    rows = [_weight(weight) for weight in weights if weight.get("form")]
    parts: list[Part] = [Table(columns, rows, ("KB before", "KB after", "PSNR"))] if rows else []
    left = [weight for weight in weights if not weight.get("form")]
    if left:
        parts.append(Table(("left as they were", "tensors", "KB", "why"), _skipped(left), ("tensors", "KB")))
    facts = []
    if ratio is not None:
        parts.insert(0, Text(f"Recipe {package.config.compression}: weights at {ratio:.1%} of their size in float16."))
        facts.append(Fact("weights against float16", f"{ratio:.1%}"))
    return Section("compression", "Compression", parts, facts)


def _weight(weight: Mapping[str, Any]) -> tuple[str, ...]:
    shape = weight.get("shape")
    return (
        _text(weight.get("name")),
        " × ".join(map(str, shape)) if isinstance(shape, list) else "–",
        _kilobytes(_number(weight.get("bytes_before"))),
        _kilobytes(_number(weight.get("bytes_after"))),
        str(weight.get("form")),
        decibels(_number(weight.get("psnr"))),
    )


def _skipped(weights: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row for each reason: there are many biases and norms, and one reason for all of them."""
    by_reason: dict[str, list[Mapping[str, Any]]] = {}
    for weight in weights:
        by_reason.setdefault(_text(weight.get("skipped")), []).append(weight)
    return [
        (
            some_names([_text(weight.get("name")) for weight in own]),
            str(len(own)),
            _kilobytes(sum(_number(weight.get("bytes_before")) or 0.0 for weight in own)),
            reason,
        )
        for reason, own in by_reason.items()
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "–"


def _number(value: Any) -> float | None:
    if value == "inf":
        return math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _kilobytes(number: float | None) -> str:
    return "–" if number is None else f"{number / 1e3:.1f}"
