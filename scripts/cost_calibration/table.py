"""The table of predicted against published, as the documentation holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cost_calibration.fitting import median_error
from cost_calibration.published_latencies import PublishedLatencies, PublishedLatency, Series
from optimum_ane.analysis.cost_parameters import CostParameters

BEGIN = "<!-- made by scripts/calibrate_cost_model.py: begin -->"
END = "<!-- made by scripts/calibrate_cost_model.py: end -->"

_GROUPS = {
    "vision": ("vision",),
    "encoders": ("encoder",),
    "vision and encoders": ("vision", "encoder"),
    "diffusion": ("diffusion",),
    "decoders": ("decoder",),
    "all": ("vision", "encoder", "diffusion", "decoder"),
}


def docs_with_table(text: str, generated: str) -> str:
    """Puts the generated part into the page."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{rest.split(END)[1]}"


def generated_part(text: str) -> str:
    """Returns the generated part of the page."""
    return text.split(BEGIN)[1].split(END)[0].strip("\n")


def table(latencies: PublishedLatencies, parameters: CostParameters, left_out: Mapping[str, float] | None) -> str:
    """Writes the generated part.

    Args:
        latencies: The published latencies.
        parameters: Of the model.
        left_out: What fits without a row's family predict for it; None leaves the columns empty.
    """
    parts = [
        _summary(latencies.used, parameters, left_out),
        _rows(latencies.used, parameters, left_out),
        *(_series(each, parameters) for each in latencies.series),
        _left_out(latencies),
    ]
    return "\n\n".join(parts)


def _summary(
    rows: Sequence[PublishedLatency], parameters: CostParameters, left_out: Mapping[str, float] | None
) -> str:
    lines = [
        "### Errors",
        "",
        "| rows | number | median error | mean error, signed | median error, family left out |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, kinds in _GROUPS.items():
        own = [row for row in rows if row.kind in kinds]
        published = [row.published for row in own]
        predicted = [row.predict(parameters) for row in own]
        signed = sum(a / b - 1 for a, b in zip(predicted, published, strict=True)) / len(own)
        without = "" if left_out is None else f"{median_error([left_out[r.id] for r in own], published):.0%}"
        lines.append(f"| {name} | {len(own)} | {median_error(predicted, published):.0%} | {signed:+.0%} | {without} |")
    return "\n".join(lines)


def _rows(rows: Sequence[PublishedLatency], parameters: CostParameters, left_out: Mapping[str, float] | None) -> str:
    lines = [
        "### Predicted against published",
        "",
        "| model | shape | device | chip | published ms | estimated ms | error | family left out | source |",
        "| --- | --- | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        predicted = row.predict(parameters)
        without = "" if left_out is None else f"{left_out[row.id] / row.published - 1:+.0%}"
        lines.append(
            f"| {row.model} | {row.shape} | {row.device} | {row.chip} | {row.published:.4g} | {predicted:.4g} "
            f"| {predicted / row.published - 1:+.0%} | {without} | {row.source}, {row.trust} |"
        )
    return "\n".join(lines)


def _series(series: Series, parameters: CostParameters) -> str:
    predicted = series.predict(parameters)
    lengths = [name.rsplit("-", 1)[1] for name in series.published]
    seen = "not seen by the fit" if series.held_out else "seen by the fit"
    return "\n".join(
        [
            f"### Latency by length: {series.model}",
            "",
            f"In units of the latency at {series.relative_to.rsplit('-', 1)[1]} tokens; {seen}. "
            f"Source: {series.source}; {series.trust}.",
            "",
            f"| tokens | {' | '.join(lengths)} |",
            f"| --- |{' --: |' * len(lengths)}",
            f"| published | {' | '.join(f'{ratio:.2f}' for ratio in series.published.values())} |",
            f"| estimated | {' | '.join(f'{predicted[name]:.2f}' for name in series.published)} |",
        ]
    )


def _left_out(latencies: PublishedLatencies) -> str:
    lines = [
        "### Rows left out",
        "",
        "| model | device | published ms | why it is left out | source |",
        "| --- | --- | --: | --- | --- |",
    ]
    for row in latencies.rows:
        if row.left_out is not None:
            published = "–" if row.ms is None else f"{row.ms:.4g}"
            lines.append(f"| {row.model}, {row.shape} | {row.device} | {published} | {row.left_out} | {row.source} |")
    return "\n".join(lines)
