"""Does it answer as the original does? The same inputs through the original, the module and the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.validation.psnr import psnr

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.package.form import ExportSpec
    from optimum_ane.runtimes import Session

MODULE_PSNR = 90.0
"""dB. The module computes in float32 as the original does; anything below is an error of logic, not of rounding."""

PACKAGE_PSNR = {"float16": 50.0, "float32": 90.0}
"""dB, by precision. Sound float16 packages of 2 to 12 layers measure 58 to 76; one that computes something else, a
mask that is not applied or a weight in the wrong place, measures below 40."""

_ROWS_PER_TOKEN, _ROWS_PER_SEQUENCE = 4, 16
"""Rows that are compared: one full, the others padded to shorter and shorter lengths. A task that gives a few numbers
per row needs more of them, or the ratio says little."""

_PER_TOKEN = ("last_hidden_state", "start_logits", "end_logits")


def number_of_rows(spec: ExportSpec) -> int:
    """How many rows to compare: a multiple of the package's batch."""
    is_per_sequence = spec.task in ("multiple-choice", "text-classification")
    least = _ROWS_PER_SEQUENCE if is_per_sequence else _ROWS_PER_TOKEN
    return -(-least // spec.batch_size) * spec.batch_size


def answer_of_original(model: PreTrainedModel, inputs: Mapping[str, Tensor], spec: ExportSpec) -> dict[str, Tensor]:
    """Runs the original in PyTorch and names its outputs as the package does.

    Args:
        model: The original, float32.
        inputs: (B, S) each.
        spec: The form of the package.

    Returns:
        Float32 tensors by output name.
    """
    as_long = {name: value.long() for name, value in inputs.items()}
    if spec.task == "multiple-choice":
        as_long = {name: value.unsqueeze(1) for name, value in as_long.items()}
    with torch.no_grad():
        answer = model(**as_long)
    if spec.pooling is not None:
        return {"sentence_embedding": _pool(answer.last_hidden_state, inputs["attention_mask"], spec)}
    return {name: value for name, value in answer.items() if name in ("logits", *_PER_TOKEN)}


def answer_of_module(module: nn.Module, inputs: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Runs the Neural Engine module in PyTorch."""
    with torch.no_grad():
        answer = module(*(value.long() for value in inputs.values()))
    return dict(zip(names, answer if isinstance(answer, tuple) else (answer,), strict=True))


def answer_of_package(
    session: Session, inputs: Mapping[str, Tensor], names: list[str], batch_size: int
) -> dict[str, Tensor]:
    """Runs a saved package over as many rows as there are, `batch_size` at a time.

    Args:
        session: The loaded package.
        inputs: (N, S) each; `batch_size` divides N.
        names: The outputs to take.
        batch_size: Rows per prediction.
    """
    rows = next(iter(inputs.values())).shape[0]
    answers = [
        session.predict({name: value[start : start + batch_size].numpy() for name, value in inputs.items()})
        for start in range(0, rows, batch_size)
    ]
    return {name: torch.from_numpy(np.concatenate([answer[name] for answer in answers])).float() for name in names}


def measure(reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor], mask: Tensor) -> dict[str, float]:
    """The PSNR of each output in dB, over the positions that hold a token.

    What a model computes for padding is of no use to anybody, and differs between attention implementations.

    Args:
        reference: The original's outputs by name.
        candidate: Ours, by the same names and of the same shapes.
        mask: (B, S), 1 for a token and 0 for padding.

    Raises:
        ValidationError: The shapes differ.
        CheckpointError: The original's outputs are not finite.
    """
    tokens = mask.bool()
    ratios = {}
    for name, ours in candidate.items():
        theirs = reference[name]
        if ours.shape != theirs.shape:
            raise ValidationError(f"{name} has shape {tuple(ours.shape)}, the original's {tuple(theirs.shape)}")
        if name in _PER_TOKEN or ours.ndim == 3:
            theirs, ours = theirs[tokens], ours[tokens]
        if not theirs.isfinite().all():
            raise CheckpointError(f"the original's own {name} holds NaN or infinity; its weights are damaged")
        ratios[name] = psnr(theirs, ours)
    return ratios


def check(ratios: Mapping[str, float], threshold: float, what: str, fault: str = "") -> None:
    """Refuses an answer that is too far from the original's.

    Args:
        ratios: dB by output, from `measure`.
        threshold: dB that each must reach.
        what: What answered.
        fault: Where it leaves the original, in a few words, if that is known; see `layers.find_fault`.

    Raises:
        ValidationError: A PSNR is below the threshold; the message holds both numbers.
    """
    place = f" ({fault})" if fault else ""
    for name, ratio in ratios.items():
        if not ratio >= threshold:
            raise ValidationError(
                f"the {what} does not answer as the original does: PSNR of {name} is {ratio:.1f} dB, "
                f"{threshold:.1f} are asked for{place}; nothing was written. Try --precision float32 to tell rounding "
                "from a wrong export, or set --psnr-threshold"
            )


def _pool(hidden: Tensor, mask: Tensor, spec: ExportSpec) -> Tensor:
    """sentence-transformers' pooling, on the original's hidden states (B, S, C)."""
    if spec.pooling == "cls":
        pooled = hidden[:, 0]
    else:
        weight = mask.unsqueeze(-1).float()
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=1) if spec.normalize else pooled
