"""What a sequence-classification head predicts, by transformers' own names."""

from __future__ import annotations

from typing import Any, Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


SINGLE_LABEL: ProblemType = "single_label_classification"


MULTI_LABEL: ProblemType = "multi_label_classification"


REGRESSION: ProblemType = "regression"


def problem_type_of(config: Any) -> ProblemType:
    """What a transformers config's sequence-classification head predicts.

    `config.problem_type` where it is set; else regression for a single output and one label of many otherwise, as
    transformers' pipeline decides.
    """
    declared = getattr(config, "problem_type", None)
    if declared in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        return declared
    return REGRESSION if config.num_labels == 1 else SINGLE_LABEL
