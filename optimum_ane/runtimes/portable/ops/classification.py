"""The last operation of a classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


@op("classify", exact=True)
def classify(probabilities: Tensor, classes: list) -> tuple[Any, dict[Any, float]]:
    """Names the most probable class.

    Args:
        probabilities: One number for each class, in any shape.
        classes: The labels, all strings or all integers.

    Returns:
        The label (an integer as a tensor of rank 0), and the probability of each label.
    """
    numbers = probabilities.flatten().tolist()
    if len(numbers) != len(classes):
        raise ValueError(f"{len(classes)} classes and {len(numbers)} probabilities")
    label = classes[int(probabilities.argmax())]
    return label if isinstance(label, str) else torch.tensor(label), dict(zip(classes, numbers, strict=True))
