"""The labels of a Core ML classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.package.problem_types import SINGLE_LABEL, problem_type_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def class_labels_of(config: PretrainedConfig) -> tuple[str, ...]:
    """The checkpoint's labels in the order of its scores, of which a row has one.

    Raises:
        UnsupportedModelError: It does regression or multi-label, or two of its labels are equal.
    """
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if problem_type_of(config) != SINGLE_LABEL or len(labels) < 2:
        raise UnsupportedModelError(
            "class labels need one label of two or more per row; this checkpoint does regression or multi-label"
        )
    if len(set(labels)) < len(labels):
        raise UnsupportedModelError(f"two labels of config.json are equal: {', '.join(labels)}")
    return labels
