"""The gate on accuracy: how much worse than the original a package may be."""

from __future__ import annotations

import math

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.report import AccuracyReport

DEFAULT_MAX_ACCURACY_DROP = 1.0
"""In percentage points of the primary metric; hundredths for correlations."""


def check_accuracy_drop(report: AccuracyReport, max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP) -> None:
    """Refuses a package that is worse than the original by more than is allowed.

    Args:
        report: A report with the original in it.
        max_accuracy_drop: In percentage points of the primary metric; for correlations, which run from −1 to 1,
            hundredths.

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
            f"{max_accuracy_drop:.2f}: {report.summary()}; export it with --precision float32, or raise the limit"
        )
