"""The sections of what the package says of itself: how it was made, functions, parity, accuracy and compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimum_ane.analysis.html_report import figures
from optimum_ane.analysis.html_report.parts import Code, Figure, KeyNumber, Part, Section, Table, Text
from optimum_ane.analysis.wording import some_names
from optimum_ane.hub.card_functions import function_rows
from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.card_values import accuracy_rows, decibels, headline, size
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.metric_format import drop_name, drop_unit

_INFINITE = 160.0
"""dB. Where a bar of an infinite ratio, of equal answers, ends."""


def provenance(package: CardPackage) -> Section:
    """How the package was made: the command, of what and with what, and the seconds of each stage."""
    manifest = package.manifest
    parts: list[Part] = []
    command = package.report.get("command")
    if isinstance(command, str):
        parts.append(Code(command))
    rows = [
        ("task", manifest.form.task),
        ("architecture", manifest.model_type),
        ("shape", package.shape),
        ("method", _method(manifest)),
        ("precision", manifest.form.precision),
        ("compression", manifest.compression or "none"),
        ("runs on", f"{package.systems} and later"),
        ("made from", manifest.source.name + (f" at {manifest.source.revision}" if manifest.source.revision else "")),
        ("versions", ", ".join(f"{name} {number}" for name, number in manifest.versions.items())),
        ("machine", _text(package.report.get("machine"))),
    ]
    parts.append(Table(("", ""), rows))
    seconds = package.numbers("seconds")
    if seconds:
        parts.append(Figure(figures.bars(seconds, "seconds")))
    return Section("provenance", "How it was made", parts, [KeyNumber("on disk", size(package))])


def _method(manifest: Manifest) -> str:
    """How the programs came to be."""
    how = "" if manifest.conversion is None else f": {manifest.conversion.describe()}"
    return f"{manifest.method}{how}"


def functions(package: CardPackage) -> Section:
    """Each function's operations and where they are predicted to run; nothing for a package with one function."""
    columns = {
        "name": "function",
        "shape": "first input",
        "operations": "operations",
        "ane": "ane",
        "conditional": "conditional",
        "fallback": "fallback",
        "share": "% of FLOPs on ane",
        "regions": "regions",
    }
    rows = [tuple(row[key] for key in columns) for row in function_rows(package, show=str)]
    if not rows:
        return Section("functions", "Functions")
    names = tuple(columns.values())
    text = Text(
        "All functions of a program read one copy of the weights. Where operations run is a prediction; the sections "
        "below are of one function, which the top of the page names."
    )
    return Section("functions", "Functions", [Table(names, rows, names[2:]), text])


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
    return Section("parity", "Parity", parts, [KeyNumber("PSNR, lowest output", decibels(min(outputs.values())))])


def accuracy(package: CardPackage) -> Section:
    """The comparison on a dataset."""
    rows = accuracy_rows(package, show=str)
    if not rows:
        return Section("accuracy", "Accuracy", [Text("No dataset was named, so no accuracy was measured.")])
    runtime = _text((package.accuracy or {}).get("runtime"))
    key_numbers = [KeyNumber("accuracy, original → package", headline(package))]
    value, metric = package.number("accuracy", "drop"), str((package.accuracy or {}).get("primary_metric"))
    if value is not None:
        key_numbers.append(KeyNumber(f"{drop_name(metric)}, {drop_unit(metric)}", f"{value:+.2f}"))
    return Section("accuracy", "Accuracy", [Table(("", ""), rows), Text(f"Runtime: {runtime}.", True)], key_numbers)


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
    key_numbers = []
    if ratio is not None:
        parts.insert(
            0, Text(f"Recipe {package.manifest.compression}: weights at {ratio:.1%} of their size in float16.")
        )
        key_numbers.append(KeyNumber("weights against float16", f"{ratio:.1%}"))
    return Section("compression", "Compression", parts, key_numbers)


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
