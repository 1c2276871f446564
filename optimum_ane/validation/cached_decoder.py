"""Does a language model over our cache answer as the original with its own? Token by token, in blocks and in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.validation.psnr import psnr

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

GATE_PSNR = 120.0
"""dB. Both compute in float32, so that anything below is an error of logic: a mask of the model's own making measured
9 dB, a window that is not applied 15 to 23; sound decoders 129 and more."""

WORST_TOKENS = 10.0
"""dB. By so much one token in twenty may lie below what half of them must reach: where activations stand out, float16
costs single tokens more (SmolLM2's least of 107 is 12 dB below its median)."""

STEPS = 8
"""How many of the last tokens are read one by one."""

_STALE = 7
"""The id of a text that was in the cache before."""


@dataclass(frozen=True)
class CachedAnswers:
    """Logits of one text, (tokens, vocabulary) float32 each.

    Attributes:
        score: Behind every token, read in blocks with the logits of each.
        steps: Behind the last `STEPS` tokens, read one by one after blocks without logits.
    """

    score: np.ndarray
    steps: np.ndarray


@torch.no_grad()
def answers_of_original(model: PreTrainedModel, tokens: Tensor) -> CachedAnswers:
    """What the original answers with its own cache.

    Args:
        model: In evaluation mode.
        tokens: (n,) int64.

    Raises:
        CheckpointError: Its logits are not finite.
    """
    count = min(STEPS, len(tokens) - 1)
    answer = model(input_ids=tokens[None, : len(tokens) - count], use_cache=True)
    logits = [answer.logits[0]]
    for step in range(len(tokens) - count, len(tokens)):
        answer = model(input_ids=tokens[None, step : step + 1], past_key_values=answer.past_key_values, use_cache=True)
        logits.append(answer.logits[0])
    score = torch.cat(logits).float()
    if not score.isfinite().all():
        raise CheckpointError("the original's own logits hold NaN or infinity; its weights are damaged")
    return CachedAnswers(score.numpy(), score[len(tokens) - count :].numpy())


def answers_of_package(driver: Any, tokens: Tensor) -> CachedAnswers:
    """What a model class of ours answers, over rows of a text that was there before.

    Args:
        driver: `ANEModelForCausalLM` over sessions of any engine.
        tokens: (n,) int64.
    """
    count = min(STEPS, len(tokens) - 1)
    stale = torch.full_like(tokens, _STALE)
    cache = driver(stale[None], use_cache=True, logits_to_keep=1).past_key_values
    cache.shorten_to(0)
    score = driver(tokens[None], past_key_values=cache).logits[0]
    cache.shorten_to(0)
    first = len(tokens) - count
    steps = [driver(tokens[None, : first + 1], past_key_values=cache, logits_to_keep=1).logits[0]] if count else []
    steps += [
        driver(tokens[None, step : step + 1], past_key_values=cache, logits_to_keep=1).logits[0]
        for step in range(first + 1, len(tokens))
    ]
    return CachedAnswers(score.numpy(), torch.cat(steps).numpy() if steps else score[:0].numpy())


@dataclass(frozen=True)
class LogitsComparison:
    """How close logits are to the original's, token by token.

    Attributes:
        whole: dB of all logits together.
        psnr: dB of each token's logits.
        divergence: Kullback-Leibler divergence of the original's next-token distribution from ours, nats, of each.
        same: Whether the most probable token is the same, of each.
    """

    whole: float
    psnr: np.ndarray
    divergence: np.ndarray
    same: np.ndarray

    @property
    def median(self) -> float:
        """DB that half of the tokens reach."""
        return float(np.median(self.psnr))

    @property
    def of_the_worst(self) -> float:
        """DB that all but one token in twenty reach."""
        return float(np.quantile(self.psnr, 0.05, method="lower"))

    def summary(self) -> dict[str, float]:
        """The numbers of a report."""
        return {
            "median_psnr": self.median,
            "least_psnr": float(self.psnr.min()),
            "mean_divergence": float(self.divergence.mean()),
            "same_token": float(self.same.mean()),
            "tokens": len(self.psnr),
        }


def compare_logits(expected: np.ndarray, actual: np.ndarray) -> LogitsComparison:
    """Compares logits, (tokens, vocabulary) each.

    Raises:
        ValidationError: The shapes differ, or nothing was compared.
    """
    if expected.shape != actual.shape or not expected.size:
        raise ValidationError(f"the logits have shape {actual.shape}, those of the original {expected.shape}")
    ratios = np.array([psnr(theirs, ours) for theirs, ours in zip(expected, actual, strict=True)])
    theirs, ours = _log_softmax(expected), _log_softmax(actual)
    with np.errstate(invalid="ignore"):
        divergence = (np.exp(theirs) * (theirs - ours)).sum(-1)
    return LogitsComparison(psnr(expected, actual), ratios, divergence, expected.argmax(-1) == actual.argmax(-1))


def compare_answers(expected: CachedAnswers, actual: CachedAnswers) -> Mapping[str, LogitsComparison]:
    """Compares both ways of reading, by the function that gives the logits: `"score"` and `"infer"`."""
    compared = {"score": compare_logits(expected.score, actual.score)}
    if len(expected.steps):
        compared["infer"] = compare_logits(expected.steps, actual.steps)
    return compared


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
