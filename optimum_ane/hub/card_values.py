"""What a card says of one package, in words: a pure function of the package's own JSON files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from optimum_ane.errors import PackageError
from optimum_ane.hub.card_functions import VERDICTS, operations_by_verdict
from optimum_ane.hub.card_package import CardPackage, as_number
from optimum_ane.hub.markdown import code, escape
from optimum_ane.package.layout import EXPORT_REPORT
from optimum_ane.package.metric_format import drop_name, drop_unit, show_metric


def size(package: CardPackage) -> str:
    """Size on disk."""
    size = package.number("sizes", "package")
    return "–" if size is None else f"{size / 1e6:.1f} MB"


_FITS = {
    "fill": "stretched to that size",
    "crop": "scaled until it covers that size, and cut off at both ends",
    "pad": "scaled into that size, and filled up",
    "": "resized",
}
"""What an image processor does to images of other proportions, by `ImageEntry.fit`."""


def image_input(package: CardPackage) -> str:
    """What a package does with an image, and what it leaves to the caller; empty for packages that take none."""
    image = package.manifest.image
    if image is None:
        return ""
    fit = _FITS.get(image.fit, _FITS[""])
    if image.normalization is None:
        return (
            f"The caller makes the numbers: an image {fit}, {image.height} × {image.width} pixels, and normalised as "
            "the processor's files say."
        )
    return (
        f"The image has eight bits a channel, {image.normalization.layout}, and {image.height} × {image.width} "
        f"pixels. Resizing is the caller's: the checkpoint's processor has images {fit}. Normalising is the "
        "package's: nothing is divided or subtracted before it."
    )


def decibels(ratio: float | None) -> str:
    """A PSNR."""
    if ratio is None:
        return "–"
    return "equal" if ratio == math.inf else f"{ratio:.1f} dB"


def worst_psnr(package: CardPackage) -> str:
    """The lowest PSNR of the package's outputs."""
    return decibels(min(package.numbers("package_psnr").values(), default=None))


def compression(package: CardPackage) -> str:
    """The recipe with its ratio and its coverage, as far as the report knows them."""
    if package.manifest.compression is None:
        return f"none; weights in {package.manifest.form.precision}"
    parts = [code(package.manifest.compression)]
    ratio = package.number("compression", "ratio_to_float16")
    if ratio is not None:
        parts.append(f"weights at {ratio:.1%} of their size in float16")
    coverage = _coverage(package)
    if coverage is not None:
        parts.append(f"{coverage:.1%} of the weights' bytes covered")
    return ", ".join(parts)


def method(package: CardPackage) -> str:
    """How the programs came to be."""
    manifest = package.manifest
    if manifest.method != "graph":
        return "of a module that is written by hand for the engine"
    described = "" if manifest.conversion is None else f", {escape(manifest.conversion.describe())}"
    return f"by the graph of the original{described}"


def warnings(package: CardPackage) -> tuple[str, ...]:
    """What the export warned of."""
    found = package.report.get("warnings") or ()
    return tuple(escape(each) for each in found if isinstance(each, str))


def _coverage(package: CardPackage) -> float | None:
    """Which part of the weights' bytes took another form; None where the report has no table of weights."""
    report = package.report.get("compression")
    weights = report.get("weights") if isinstance(report, Mapping) else None
    if not isinstance(weights, list) or not weights:
        return None
    whole, covered = 0, 0
    for weight in weights:
        size = weight.get("bytes_before") if isinstance(weight, Mapping) else None
        if not isinstance(size, int) or size < 0:
            raise PackageError(f"{EXPORT_REPORT}: compression.weights is no table of weights; export it again")
        whole += size
        covered += size if weight.get("form") is not None else 0
    return covered / max(1, whole)


def accuracy_rows(package: CardPackage, show: Callable[[object], str] = escape) -> list[tuple[str, str]]:
    """The comparison on a dataset: what, and how much of it.

    Args:
        package: What the package says of itself.
        show: Makes the names in it fit for where they stand; Markdown, unless another is given.
    """
    accuracy = package.accuracy
    if accuracy is None:
        return []
    rows = package.number("accuracy", "rows") or 0
    dataset, primary = show(accuracy.get("dataset", "")), str(accuracy.get("primary_metric", ""))
    table = []
    originals = package.numbers("accuracy", "original", "metrics")
    for metric, value in package.numbers("accuracy", "package", "metrics").items():
        original = show_metric(metric, originals[metric]) if metric in originals else "–"
        change = f"{original} → {show_metric(metric, value)}"
        table.append((f"{show(metric)} on {dataset}, {rows:.0f} rows, original → package", change))
    table.append((f"{drop_name(primary)} in {show(primary)}, positive is worse", drop(package)))
    unit, outputs = show(accuracy.get("unit", "rows")), show(accuracy.get("outputs", "logits"))
    agreement = package.number("accuracy", "agreement")
    if agreement is not None:
        table.append(("same prediction as the original", f"{agreement:.2%} of the {unit}"))
    table += _next_token_rows(package)
    table.append((f"PSNR of the {outputs} on that dataset", decibels(package.number("accuracy", "psnr"))))
    if package.manifest.modality == "text":
        truncated = package.number("accuracy", "truncated") or 0
        table.append((f"rows cut at {package.manifest.form.longest} tokens, for both", f"{truncated:.0f}"))
    return table


def _next_token_rows(package: CardPackage) -> list[tuple[str, str]]:
    """What is measured of language models besides."""
    rows = []
    for name, what, form, unit in (
        ("kl_divergence", "mean KL divergence of the next-token distributions", ".2g", "nats"),
        ("perplexity_increase", "perplexity, package over original", "+.3f", "%"),
    ):
        value, low, high = (package.number("accuracy", "next_tokens", name, end) for end in ("value", "low", "high"))
        if value is None:
            continue
        ends = "" if low is None or high is None else f", interval {low:{form}} to {high:{form}}"
        rows.append((what, f"{value:{form}} {unit}{ends}"))
    return rows


def drop(package: CardPackage) -> str:
    """What the package loses in the primary metric, with the confidence interval."""
    value = package.number("accuracy", "drop")
    if package.accuracy is None or value is None:
        return "–"
    text = f"{value:+.2f} {drop_unit(str(package.accuracy.get('primary_metric')))}"
    interval = drop_interval(package)
    if interval is None:
        return text
    confidence = package.number("accuracy", "confidence")
    share = "" if confidence is None else f"{confidence:.0%} "
    return f"{text}, {share}interval {interval[0]:+.2f} to {interval[1]:+.2f}"


def short_drop(package: CardPackage) -> str:
    """The same for a table's cell."""
    value, interval = package.number("accuracy", "drop"), drop_interval(package)
    if package.accuracy is None or value is None:
        return "–"
    return f"{value:+.2f}" if interval is None else f"{value:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def drop_interval(package: CardPackage) -> tuple[float, float] | None:
    """Both ends of the drop's confidence interval; None where there is none."""
    interval = (package.accuracy or {}).get("drop_interval")
    if interval is None:
        return None
    ends = [as_number(end) for end in interval] if isinstance(interval, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        raise PackageError(f"{EXPORT_REPORT}: accuracy.drop_interval is {interval!r:.100}, not two numbers")
    return ends[0], ends[1]


def headline(package: CardPackage) -> str:
    """The primary metric of the original and of the package."""
    accuracy = package.accuracy
    metric = str(accuracy.get("primary_metric")) if accuracy else ""
    original = package.numbers("accuracy", "original", "metrics").get(metric)
    own = package.numbers("accuracy", "package", "metrics").get(metric)
    if original is None or own is None:
        return "–"
    return f"{show_metric(metric, original)} → {show_metric(metric, own)}"


def residency_rows(package: CardPackage) -> list[tuple[str, str]]:
    """Where the operations are predicted to run, of a package with one function; see `function_rows` for several."""
    counts = operations_by_verdict(package)
    if not counts or len(package.manifest.functions) > 1:
        return []
    rows = [(f"operations predicted for: {VERDICTS[verdict]}", f"{count:.0f}") for verdict, count in counts.items()]
    share = package.number("residency", "flops_share_on_ane")
    if share is not None:
        rows.append(("arithmetic predicted for the Neural Engine", f"{share:.1%}"))
    regions = package.number("residency", "regions")
    if regions is not None:
        rows.append(("predicted regions, each of one device", f"{regions:.0f}"))
    return rows


def runtimes(package: CardPackage) -> tuple[str, ...]:
    """Which runtimes answered for the package, in the parity check and on the dataset."""
    names = (package.report.get("runtime"), (package.accuracy or {}).get("runtime"))
    return tuple(dict.fromkeys(escape(name) for name in names if isinstance(name, str)))
