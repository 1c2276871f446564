"""Mixtures of experts in a form that a graph of fixed shapes can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

if TYPE_CHECKING:
    from torch import nn

BATCHED = "batched_mm"
"""transformers' name of it: the weights of a token's experts are gathered, and multiplied by in one batched product.
The others sort tokens by expert, or loop over those that were chosen, which differ from one input to the next."""


@contextmanager
def batched_experts(model: nn.Module) -> Iterator[None]:
    """Has the experts of a model of transformers computed as batched products while the block runs.

    Args:
        model: Any module; one without experts, or whose experts have one form only, is left as it is.
    """
    if not isinstance(model, PreTrainedModel) or not _has_experts(model):
        yield
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation(BATCHED)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _has_experts(model: PreTrainedModel) -> bool:
    models = (each for each in model.modules() if isinstance(each, PreTrainedModel))
    return any(each._can_set_experts_implementation() for each in models)
