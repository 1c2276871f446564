"""The gates on accuracy: how much worse than the original a package may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.report import AccuracyReport, NextTokenReport
from optimum_ane.package.metric_format import drop_of, drop_unit, show_metric

DEFAULT_MAX_ACCURACY_DROP = 1.0
"""In percentage points of the primary metric; hundredths for correlations."""

DEFAULT_MAX_PERPLEXITY_INCREASE = 1.0
"""In percent of the original's perplexity. Packages in float16 measured a few hundredths."""

NEEDS_ORIGINAL = "limits on what a package may lose, --max-accuracy-drop and the like, need the original's score"

_GENERATION = "text-generation"
_REMEDY = "export it with --precision float32, or raise the limit"
_REMEDY_OF_LANGUAGE_MODELS = "compress fewer weights or keep more bits, or raise the limit"


@dataclass(frozen=True)
class AccuracyLimits:
    """What a package may lose on a dataset.

    Attributes:
        max_accuracy_drop: In percentage points of the primary metric; for correlations, which run from −1 to 1,
            hundredths.
        max_perplexity_increase: In percent of the original's, for language models; None takes 1.
        max_kl: Mean Kullback–Leibler divergence of the next-token distributions in nats, for language models; None
            sets no limit, here and below.
        max_box_error: Mean error of the sides of a detector's boxes, in pixels of the image.
        min_iou: Mean IoU of a segmenter's classes with the original's, 0 to 1.
        max_depth_error: Mean absolute relative error of depths.
        max_wer_increase: Percentage points of the word error rate, for speech; None takes `max_accuracy_drop`.
        max_bleu_loss: Points of BLEU, for texts that are written; None takes `max_accuracy_drop` where BLEU is the
            primary metric, and else sets no limit.
    """

    max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP
    max_perplexity_increase: float | None = None
    max_kl: float | None = None
    max_box_error: float | None = None
    min_iou: float | None = None
    max_depth_error: float | None = None
    max_wer_increase: float | None = None
    max_bleu_loss: float | None = None

    def check_task(self, task: str) -> None:
        """Refuses, before any work, limits that say nothing to a task.

        Raises:
            ValidationError: A limit for one task, and another task.
        """
        for name, limit, wanted in (
            ("--max-perplexity-increase", self.max_perplexity_increase, (_GENERATION,)),
            ("--max-kl", self.max_kl, (_GENERATION,)),
            ("--max-box-error", self.max_box_error, ("object-detection",)),
            ("--min-iou", self.min_iou, ("image-segmentation",)),
            ("--max-depth-error", self.max_depth_error, ("depth-estimation",)),
            ("--max-wer-increase", self.max_wer_increase, ("automatic-speech-recognition",)),
            ("--max-bleu-loss", self.max_bleu_loss, ("text2text-generation", "image-to-text")),
        ):
            if limit is not None and task not in wanted:
                raise ValidationError(f"{name} is for {' and '.join(wanted)} and says nothing to {task}; leave it out")


def check_accuracy(report: AccuracyReport, limits: AccuracyLimits) -> None:
    """Refuses a package that is worse than the original by more than is allowed.

    Args:
        report: A report with the original in it.
        limits: What is allowed.

    Raises:
        ValidationError: A limit is not kept, or what it limits is not defined.
        ValueError: The report has no original to compare with.
    """
    limits.check_task(report.task)
    limited = _check_written(report, limits)
    if report.primary_metric not in limited:
        check_accuracy_drop(report, limits.max_accuracy_drop)
    if report.next_tokens is not None:
        _check_next_tokens(report, report.next_tokens, limits)
    _check_images(report, limits)


def check_accuracy_drop(report: AccuracyReport, max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP) -> None:
    """Refuses a package whose primary metric is lower than the original's by more than is allowed.

    Args:
        report: A report with the original in it.
        max_accuracy_drop: See `AccuracyLimits`.

    Raises:
        ValidationError: The drop is larger, or it is not defined.
        ValueError: The report has no original to compare with.
    """
    if report.drop is None:
        raise ValueError("a drop needs the original's score: compare with a reference")
    if math.isnan(report.drop):
        raise ValidationError(
            f"the drop in {report.primary_metric} on {report.dataset} is not defined: all labels or all predictions "
            "are equal; evaluate on more rows"
        )
    # Scores are ratios of counts: a drop of exactly the limit must not fail for the last bit of a division.
    if report.drop > max_accuracy_drop + 1e-9:
        raise ValidationError(
            f"the package is worse than the original by {report.drop:.2f} points, --max-accuracy-drop allows "
            f"{max_accuracy_drop:.2f}: {report.summary()}; {_REMEDY}"
        )


def _check_written(report: AccuracyReport, limits: AccuracyLimits) -> set[str]:
    """Checks the limits of single metrics of texts; returns the metrics that have one."""
    limited = set()
    for metric, option, most in (
        ("wer", "--max-wer-increase", limits.max_wer_increase),
        ("bleu", "--max-bleu-loss", limits.max_bleu_loss),
    ):
        if most is None:
            continue
        if report.original is None:
            raise ValueError("a loss needs the original's score: compare with a reference")
        limited.add(metric)
        loss = drop_of(metric, report.original.metrics[metric], report.package.metrics[metric])
        if not loss <= most + 1e-9:
            raise ValidationError(
                f"the package's {metric} on {report.dataset} is worse than the original's by {loss:.2f} "
                f"{drop_unit(metric)}, {option} allows {most:.2f}; {_REMEDY}"
            )
    return limited


def _check_next_tokens(report: AccuracyReport, found: NextTokenReport, limits: AccuracyLimits) -> None:
    increase, most = found.perplexity_increase.value, limits.max_perplexity_increase
    most = DEFAULT_MAX_PERPLEXITY_INCREASE if most is None else most
    if not increase <= most:
        raise ValidationError(
            f"the package's perplexity on {report.dataset} is higher than the original's by {increase:.3f} %, "
            f"--max-perplexity-increase allows {most:.3f}; {_REMEDY_OF_LANGUAGE_MODELS}"
        )
    divergence = found.kl_divergence.value
    if limits.max_kl is not None and not divergence <= limits.max_kl:
        raise ValidationError(
            f"the package's next-token distributions on {report.dataset} are {divergence:.3g} nats from the "
            f"original's, --max-kl allows {limits.max_kl:.3g}; {_REMEDY_OF_LANGUAGE_MODELS}"
        )


def _check_images(report: AccuracyReport, limits: AccuracyLimits) -> None:
    for metric, option, limit, sign in (
        ("mean_box_error", "--max-box-error", limits.max_box_error, 1),
        ("iou_with_original", "--min-iou", limits.min_iou, -1),
        ("depth_error", "--max-depth-error", limits.max_depth_error, 1),
    ):
        if limit is None:
            continue
        value = report.package.metrics[metric]
        if not sign * value <= sign * limit:
            raise ValidationError(
                f"the package's {metric} on {report.dataset} is {show_metric(metric, value)}, {option} allows "
                f"{show_metric(metric, limit)}; {_REMEDY}"
            )
