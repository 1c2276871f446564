"""Published speeds of decoders beside what a plan estimates for them, as the documentation holds it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from transformers import AutoConfig

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.decoder_shape import TABLE, DecoderShape, DecoderWeight, read_decoder
from optimum_ane.analysis.decoder_steps import StoredWeight, call_cost, cut
from optimum_ane.analysis.generation import Range, generation_speed

PUBLISHED = Path(__file__).with_name("published_speeds.yaml")
BEGIN = "<!-- made by scripts/decoder_speed.py: begin -->"
END = "<!-- made by scripts/decoder_speed.py: end -->"

_NEEDED = {"model", "device", "published", "source", "trust"}
_OF_ESTIMATES = {"chip", "weights", "context", "tokens", "what"}
_OPTIONAL = {"table", "programs", "assumed", "left_out"}
_TRUST = ("apple", "measured", "claimed", "reverse-engineered")


class SpeedTableError(ValueError):
    """A row that cannot be right; the message names it."""


@dataclass(frozen=True)
class PublishedSpeed:
    """One row of the table; see `published_speeds.yaml`.

    Attributes:
        entry: As it is written there.
        source: Who published it.
        sizes: Of the model; None where nothing is estimated.
    """

    entry: Mapping[str, Any]
    source: str
    sizes: Mapping[str, Any] | None

    @property
    def published(self) -> float:
        """Tokens a second."""
        return float(self.entry["published"])

    def estimate(self) -> Range:
        """Estimates the tokens a second."""
        entry, decoder = self.entry, _shape(tuple((self.sizes or {}).items()))
        chunks = cut(decoder, entry.get("programs", 1))
        is_prefill = entry["what"] == "prompt" and entry["tokens"] < entry["context"]
        parts = call_cost(
            decoder,
            chunks,
            entry["tokens"],
            entry["context"],
            self._compress,
            get_chip(entry["chip"]),
            is_prefill=is_prefill,
        )
        calls = generation_speed(parts.total, 1).tokens_per_second
        factor = entry["tokens"] if entry["what"] == "prompt" else 1
        return Range(factor * calls.low, factor * calls.typical, factor * calls.high)

    def _compress(self, weight: DecoderWeight) -> StoredWeight:
        bits = self.entry["weights"]
        if TABLE in weight.op_types:
            bits = self.entry.get("table", bits)
        return StoredWeight(round(weight.elements * bits / 8), "int8" if bits == 8 else None)


@functools.cache
def _shape(sizes: tuple[tuple[str, Any], ...]) -> DecoderShape:
    given = dict(sizes)
    return read_decoder(AutoConfig.for_model(given.pop("model_type"), **given))


def published_speeds(text: str | None = None) -> tuple[PublishedSpeed, ...]:
    """Reads the table.

    Args:
        text: YAML; None reads the file beside this one.

    Raises:
        SpeedTableError: A row lacks something or names what there is not.
    """
    document = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8") if text is None else text)
    return tuple(_row(entry, document) for entry in document["rows"])


def _row(entry: Mapping[str, Any], document: Mapping[str, Any]) -> PublishedSpeed:
    place = f"{entry.get('model')} on {entry.get('device')}"
    needed = _NEEDED if "left_out" in entry else _NEEDED | _OF_ESTIMATES
    odd = sorted((needed - set(entry)) | (set(entry) - needed - _OPTIONAL))
    if odd:
        raise SpeedTableError(f"{place}: missing or unknown: {', '.join(odd)}")
    if entry["trust"] not in _TRUST or entry["source"] not in document["sources"]:
        raise SpeedTableError(f"{place}: source {entry['source']!r} or trust {entry['trust']!r} is not known")
    sizes = None
    if "left_out" not in entry:
        if entry["what"] not in ("decode", "prompt") or entry["model"] not in document["models"]:
            raise SpeedTableError(f"{place}: {entry['what']!r} or the model is not known")
        sizes = document["models"][entry["model"]]
    return PublishedSpeed(entry, document["sources"][entry["source"]], sizes)


def docs_with_table(text: str, generated: str) -> str:
    """Puts the generated part into the page."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{rest.split(END)[1]}"


def table(rows: Sequence[PublishedSpeed]) -> str:
    """Writes the generated part."""
    used = [row for row in rows if row.sizes is not None]
    estimates = [row.estimate() for row in used]
    return "\n\n".join((_summary(used, estimates), _estimated(used, estimates), _left_out(rows)))


def _summary(rows: Sequence[PublishedSpeed], estimates: Sequence[Range]) -> str:
    lines = [
        "### Errors",
        "",
        "| rows | number | median error | mean error, signed | within the range |",
        "| --- | --: | --: | --: | --: |",
    ]
    groups = {
        "measured, one token": lambda row: row.entry["trust"] == "measured" and row.entry["tokens"] == 1,
        "measured or Apple's, several tokens": lambda row: row.entry["trust"] != "claimed" and row.entry["tokens"] > 1,
        "claimed": lambda row: row.entry["trust"] == "claimed",
        "all": lambda row: True,
    }
    for name, belongs in groups.items():
        own = [(row, estimate) for row, estimate in zip(rows, estimates, strict=True) if belongs(row)]
        errors = [estimate.typical / row.published - 1 for row, estimate in own]
        within = sum(estimate.low <= row.published <= estimate.high for row, estimate in own)
        lines.append(
            f"| {name} | {len(own)} | {median(map(abs, errors)):.0%} | {sum(errors) / len(own):+.0%} "
            f"| {within} of {len(own)} |"
        )
    return "\n".join(lines)


def _estimated(rows: Sequence[PublishedSpeed], estimates: Sequence[Range]) -> str:
    lines = [
        "### Estimated against published",
        "",
        "| model | device, chip | bits | context | tokens a call | what | published tokens/s | estimated tokens/s "
        "| likely | error | assumed | source |",
        "| --- | --- | --: | --: | --: | --- | --: | --: | --- | --: | --- | --- |",
    ]
    for row, estimate in zip(rows, estimates, strict=True):
        entry = row.entry
        bits = f"{entry['weights']:g}" + (f", table {entry['table']:g}" if "table" in entry else "")
        lines.append(
            f"| {entry['model']} | {entry['device']}, {entry['chip']} | {bits} | {entry['context']} "
            f"| {entry['tokens']} | {entry['what']} | {_number(row.published)} | {_number(estimate.typical)} "
            f"| {_number(estimate.low)} to {_number(estimate.high)} | {estimate.typical / row.published - 1:+.0%} "
            f"| {entry.get('assumed', '')} | {row.source}; {entry['trust']} |"
        )
    return "\n".join(lines)


def _left_out(rows: Sequence[PublishedSpeed]) -> str:
    lines = [
        "### Rows left out",
        "",
        "| model | device | published tokens/s | why it is left out | source |",
        "| --- | --- | --: | --- | --- |",
    ]
    lines += [
        f"| {row.entry['model']} | {row.entry['device']} | {_number(row.published)} | {row.entry['left_out']} "
        f"| {row.source}; {row.entry['trust']} |"
        for row in rows
        if row.sizes is None
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
