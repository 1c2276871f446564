"""What a comparison found, as JSON and as a table."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from optimum_ane.package.metric_format import drop_name, drop_unit, show_metric
from optimum_ane.screen import make_console


@dataclass(frozen=True)
class ModelScore:
    """How one model did.

    Attributes:
        metrics: Name to value, as fractions of 1; the primary metric comes first. NaN where it is not defined.
        right: Rows that are right (with several labels a row: all of them); None for regression.
        samples_per_second: Rows over the time spent in the model, without what makes its inputs.
        batch_size: Most rows the model was called with at once.
    """

    metrics: dict[str, float]
    right: int | None
    samples_per_second: float
    batch_size: int


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: The number.
        low: Lower end of the interval; None where there is too little to draw from.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class NextTokenReport:
    """How the next-token distributions of a package differ from the original's, over all tokens that are scored.

    Attributes:
        kl_divergence: Mean Kullback–Leibler divergence of the original from the package, in nats.
        perplexity_increase: By how many percent the package's perplexity is higher.
        top_1_agreement: Share of positions where both hold the same token for the likeliest.
        top_5_agreement: Share of positions where the original's likeliest is among the package's five likeliest.
        median_row_psnr: Of the logits of one position against its own peak, the median over positions, in dB.
        low_row_psnr: The same, of which 0.1 % of the positions lie below.
    """

    kl_divergence: Estimate
    perplexity_increase: Estimate
    top_1_agreement: Estimate
    top_5_agreement: Estimate
    median_row_psnr: float
    low_row_psnr: float

    def remarks(self, confidence: float) -> list[str]:
        """Lines for people; `confidence` is that of the intervals."""

        def between(estimate: Estimate, form: str) -> str:
            if estimate.low is None or estimate.high is None:
                return ""
            return f" ({confidence:.0%} interval {estimate.low:{form}} to {estimate.high:{form}})"

        low = min(self.low_row_psnr, self.median_row_psnr)
        psnr = (
            "infinite (equal)" if low == math.inf else f"median {self.median_row_psnr:.1f} dB, 0.1 % below {low:.1f}"
        )
        return [
            f"KL divergence {self.kl_divergence.value:.3g} nats{between(self.kl_divergence, '.3g')}",
            f"perplexity {self.perplexity_increase.value:+.3f} %{between(self.perplexity_increase, '+.3f')}",
            f"likeliest token the same at {self.top_1_agreement.value:.2%}{between(self.top_1_agreement, '.2%')}, "
            f"among the package's five likeliest at {self.top_5_agreement.value:.2%} of the positions",
            f"PSNR of the logits of a position: {psnr}",
        ]


@dataclass(frozen=True)
class AccuracyReport:
    """The package beside the original, on one dataset.

    Attributes:
        dataset: Name of the dataset.
        rows: How many rows were scored.
        truncated: How many of them were longer than `sequence_length` and lost their end, for both models.
        metric_config: Which metrics scored: one of `GlueMetric`'s configs for text classification.
        label_mapping: How labels were matched: "by name", "by id" or "as values"; None where there are none.
        problem_type: transformers' name for what a text classifier predicts; None for other tasks.
        sequence_length: Length of the package, in tokens; None of images.
        runtime: Which runtime executed the package: "portable" or "coreml".
        primary_metric: The metric that `drop` is of.
        package: Score of the package.
        original: Score of the original in PyTorch; None if it was not run, as are the next ones then.
        drop: Original minus package in the primary metric, times 100, of error rates package minus original:
            percentage points for rates; positive is worse. NaN where the metric is not defined.
        drop_interval: Percentile interval of the drop at `confidence`, from `resamples` paired resamples.
        agreement: Share of rows, or of what `unit` names, for which both predict the same; None for regression.
        psnr: Of the outputs where they count, in dB; infinite if they are equal. Of several outputs, the lowest.
        resamples: Resamples of the bootstrap.
        confidence: Confidence of the interval.
        machine: Kind of the machine: system, architecture, threads.
        versions: Versions of the libraries that computed.
        task: Optimum's name of the task. This and the following are left out of the JSON where they are as by
            default, so that reports of text classification hold what they always did.
        unit: What a prediction is made for, in the plural.
        counts: What was scored besides rows, by name in the plural.
        outputs: What `psnr` is of.
        samples: What `samples_per_second` counts.
        stride: Of language models, how many tokens further each window of `sequence_length` begins.
        next_tokens: Of language models, how the distributions of the next token compare.
    """

    dataset: str
    rows: int
    truncated: int
    metric_config: str
    label_mapping: str | None
    problem_type: str | None
    sequence_length: int | None
    runtime: str
    primary_metric: str
    package: ModelScore
    original: ModelScore | None
    drop: float | None
    drop_interval: tuple[float, float] | None
    agreement: float | None
    psnr: float | None
    resamples: int
    confidence: float
    machine: str
    versions: dict[str, str]
    task: str = "text-classification"
    unit: str = "rows"
    counts: dict[str, int] = field(default_factory=dict)
    outputs: str = "logits"
    samples: str = "samples"
    stride: int | None = None
    next_tokens: NextTokenReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types. JSON has no infinity and no NaN: they become the strings "inf" and None."""
        values = asdict(self)
        for entry in fields(self):
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            if values[entry.name] == default:
                del values[entry.name]
        return {name: _json_value(value) for name, value in values.items()}

    def summary(self) -> str:
        """One line for a log or an error: dataset, primary metric of both, drop and interval."""
        package = show_metric(self.primary_metric, self.package.metrics[self.primary_metric])
        if self.original is None:
            return f"{self.dataset}: {self.primary_metric} {package}, {self.rows} rows"
        original = show_metric(self.primary_metric, self.original.metrics[self.primary_metric])
        return f"{self.dataset}: {self.primary_metric} {original} → {package}, {self._drop_text()}, {self.rows} rows"

    def __rich__(self) -> Group:
        """The table that `rich` prints."""
        table = Table(title=f"Accuracy on {self.dataset}", title_justify="left")
        table.add_column()
        if self.original is not None:
            table.add_column("original", justify="right")
        table.add_column("package", justify="right")
        scores = [score for score in (self.original, self.package) if score is not None]
        for name in self.package.metrics:
            table.add_row(name, *(show_metric(name, score.metrics[name]) for score in scores))
        if self.package.right is not None:
            table.add_row("right", *(f"{score.right} of {self.rows}" for score in scores))
        table.add_row(f"{self.samples} per second", *(f"{score.samples_per_second:.1f}" for score in scores))
        return Group(table, Text("\n".join(self._remarks())))

    def _drop_text(self) -> str:
        if self.drop is None or math.isnan(self.drop):
            return f"{drop_name(self.primary_metric)} not defined"
        text = f"{drop_name(self.primary_metric)} {self.drop:+.2f} {drop_unit(self.primary_metric)}"
        if self.drop_interval is not None:
            low, high = self.drop_interval
            text += f" ({self.confidence:.0%} interval {low:+.2f} to {high:+.2f})"
        return text

    @property
    def _rows(self) -> str:
        """What rows are that are no texts."""
        return "sounds" if "speech" in self.task or "audio" in self.task else "images"

    def _remarks(self) -> list[str]:
        remarks = []
        if self.original is not None:
            remarks.append(f"{self._drop_text()}; positive is worse")
            if self.next_tokens is not None:
                remarks += self.next_tokens.remarks(self.confidence)
            elif self.agreement is not None:
                remarks.append(f"same prediction on {self.agreement:.2%} of the {self.unit}")
            if self.psnr is not None:
                psnr = "infinite (equal)" if self.psnr == math.inf else f"{self.psnr:.1f} dB"
                remarks.append(f"PSNR of {self.outputs}: {psnr}")
        scored = f"{self.rows} rows, {self.truncated} of them cut at {self.sequence_length} tokens"
        if self.sequence_length is None:
            scored = f"{self.rows} {self._rows}"
        if self.stride is not None:
            scored = (
                f"{self.rows} texts read as one, in windows of {self.sequence_length} tokens, each {self.stride} on"
            )
        scored += "".join(f"; {count} {name}" for name, count in self.counts.items())
        remarks.append(scored if self.label_mapping is None else f"{scored}; labels matched {self.label_mapping}")
        if self.original is not None and self.stride is None:
            rows = f"{self._rows} at once" if self.sequence_length is None else "texts at once, padded to the longest"
            remarks.append(f"speed: the original takes {self.original.batch_size} {rows}")
        remarks.append(f"runtime {self.runtime} on {self.machine}")
        remarks.append(", ".join(f"{name} {number}" for name, number in self.versions.items()))
        return remarks


def print_report(report: AccuracyReport, console: Console | None = None) -> None:
    """Prints the table, on stdout unless another console is given."""
    (console or make_console()).print(report)


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
