"""Language models, scored on how well they foresee each token of a text, and how closely a package follows.

The dataset's texts are joined with an empty line between them and read as one, in windows of the package's context:
each token is scored once, and has what stands before it in the window to go by. A tokenizer's mark of beginning stands
before each window, for there are models that answer nonsense without it.

Perplexity is exp of the mean negative log-probability of the tokens that follow. A package's next-token distributions
are compared with the original's in the Kullback–Leibler divergence of the original from the package, which is 0 where
they are the same, and in whether both hold the same token for the likeliest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import CheckpointError, DatasetError, ValidationError
from optimum_ane.evaluation.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    ResampledScore,
    drop_interval,
    ratio,
    score_interval,
    score_of_counts,
)
from optimum_ane.evaluation.dataset_errors import dataset_error
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.next_tokens import (
    BEST,
    NextTokenDifferences,
    NextTokens,
    compare_next_tokens,
    join,
    perplexity,
    quantile,
    score_next_tokens,
)
from optimum_ane.evaluation.plain_texts import read_texts
from optimum_ane.evaluation.report import AccuracyReport, Estimate, ModelScore, NextTokenReport
from optimum_ane.evaluation.token_windows import Window, make_windows, tokenize_text
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.progress import Progress, silent
from optimum_ane.validation.comparison import Model

BLOCK = 64
"""Tokens that are drawn together for confidence intervals: neighbours err together, and not each by itself."""

_LEAST_BLOCKS = 10
"""Of fewer, resamples say little about how sure a score is."""

_MAX_CHARACTERS = 10_000_000
"""Most characters that are tokenised at once; WikiText's test set has 1.3 million."""

_LOW_QUANTILE = 0.001


@dataclass(frozen=True)
class Passages(Examples):
    """Texts that are read as one.

    Attributes:
        texts: N texts.
        stride: Tokens that each window scores; None takes as many as it can.
    """

    texts: list[str]
    stride: int | None

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)


@dataclass(frozen=True)
class WindowFeature(Feature):
    """One window of a text.

    Attributes:
        targets: int64 (K,), the tokens that follow those at `positions`.
    """

    targets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass
class _Run:
    """What one model did so far."""

    tokens: list[NextTokens] = field(default_factory=list)
    seconds: float = 0.0


class TextGeneration(Evaluator[Passages, WindowFeature, NextTokens]):
    """Scores a language model. Column: the text."""

    task: ClassVar[str] = "text-generation"
    unit: ClassVar[str] = "tokens"

    def load(self, spec: DatasetSpec) -> Passages:
        """Loads texts."""
        spec.check_options(self.task, "text_column", "stride")
        name, texts = read_texts(spec)
        characters = sum(map(len, texts))
        if characters > _MAX_CHARACTERS:
            what = f"{characters:,} characters of text, the limit for a language model is {_MAX_CHARACTERS:,}"
            raise dataset_error(name, what, "take fewer rows with --max-samples")
        return Passages(name, "perplexity", None, texts, spec.stride)

    def encode(
        self, tokenizer: Any, examples: Passages, rows: Sequence[int], sequence_length: int
    ) -> Encoded[WindowFeature]:
        """Makes windows of some texts, read as one.

        Raises:
            DatasetError: There is no token to score, or the stride is too large.
        """
        prefix, tokens = tokenize_text(tokenizer, "\n\n".join(examples.texts[row] for row in rows))
        try:
            windows = make_windows(prefix, tokens, sequence_length, examples.stride)
        except DatasetError as error:
            raise DatasetError(f"{examples.name}: {error.args[0]}") from error
        return Encoded([_feature(window, rows[0]) for window in windows])

    def answers(self, features: Sequence[WindowFeature], outputs: Sequence[Outputs]) -> Iterable[NextTokens]:
        """Keeps rank and probability of the tokens that followed."""
        for feature, output in zip(features, outputs, strict=True):
            yield score_next_tokens(torch.from_numpy(output["logits"]), feature.targets)

    def score(self, examples: Passages, answers: Sequence[NextTokens]) -> Scores:
        """Measures how often the token is the likeliest, or among the five likeliest, and perplexity."""
        tokens = join(answers)
        metrics = {
            "top_1_accuracy": float((tokens.ranks == 0).mean()),
            f"top_{BEST}_accuracy": float((tokens.ranks < BEST).mean()),
            "perplexity": perplexity(tokens.log_probabilities),
        }
        return Scores(metrics, _mean_of_blocks(tokens.ranks == 0), None, None, {self.unit: len(tokens.ranks)})

    def compare(
        self,
        reference: Model | None,
        candidate: Model,
        tokenizer: Any,
        examples: Passages,
        *,
        sequence_length: int,
        runtime: str,
        progress: Progress = silent,
    ) -> AccuracyReport:
        """See `Evaluator.compare`. No more than the logits of one window are held, (S, V) of each model."""
        features = self.encode(tokenizer, examples, range(len(examples)), sequence_length).features
        ours, theirs = _Run(), None if reference is None else _Run()
        differences: list[NextTokenDifferences] = []
        for index, feature in enumerate(features):
            logits = _run(candidate, feature, ours, "package")
            ours.tokens.append(score_next_tokens(logits, feature.targets))
            if reference is not None and theirs is not None:
                expected = _run(reference, feature, theirs, "original")
                if expected.shape != logits.shape:
                    raise ValidationError(
                        f"the package scores {logits.shape[-1]} tokens, the original {expected.shape[-1]}; they are "
                        "not of the same checkpoint"
                    )
                theirs.tokens.append(score_next_tokens(expected, feature.targets))
                differences.append(compare_next_tokens(expected, logits))
            progress(index + 1, len(features))
        package = self.score(examples, ours.tokens)
        count = package.counts[self.unit]
        original, drop, interval, compared, psnr = None, None, None, None, None
        if theirs is not None:
            scores = self.score(examples, theirs.tokens)
            original = ModelScore(scores.metrics, None, count / max(theirs.seconds, 1e-9), 1)
            drop = 100 * (scores.metrics[package.primary] - package.metrics[package.primary])
            blocks = _blocks(count)
            ends = drop_interval(scores.resampled, package.resampled, blocks) if blocks >= _LEAST_BLOCKS else None
            interval = None if ends is None else (100 * ends[0], 100 * ends[1])
            found = join(differences)
            compared = _summarise(join(theirs.tokens), join(ours.tokens), found)
            psnr = found.psnr()
        return AccuracyReport(
            dataset=examples.name,
            rows=len(examples),
            truncated=0,
            metric_config=examples.metric_config,
            label_mapping=None,
            problem_type=None,
            sequence_length=sequence_length,
            runtime=runtime,
            primary_metric=package.primary,
            package=ModelScore(package.metrics, None, count / max(ours.seconds, 1e-9), 1),
            original=original,
            drop=drop,
            drop_interval=interval,
            agreement=None if compared is None else compared.top_1_agreement.value,
            psnr=psnr,
            resamples=RESAMPLES,
            confidence=CONFIDENCE,
            machine=machine_kind(),
            versions=tool_versions(),
            task=self.task,
            unit=self.unit,
            counts={"tokens scored": count, "windows": len(features)},
            outputs=self.outputs,
            samples=self.unit,
            stride=examples.stride or max(len(feature.targets) for feature in features),
            next_tokens=compared,
        )


def _feature(window: Window, row: int) -> WindowFeature:
    inputs = {"input_ids": window.ids, "attention_mask": [1] * len(window.ids)}
    return WindowFeature(inputs, row, window.positions, window.targets)


def _run(model: Model, feature: WindowFeature, record: _Run, who: str) -> Tensor:
    """The logits of the positions that are scored, float32 (K, V)."""
    inputs = {name: torch.tensor([value]) for name, value in feature.inputs.items()}
    with torch.inference_mode():
        began = time.perf_counter()
        logits = getattr(model(**inputs), "logits", None)
        record.seconds += time.perf_counter() - began
    if logits is None:
        raise ValidationError(f"the {who} gives no logits; load the model with the class of its task")
    if logits.ndim != 3 or logits.shape[:2] != inputs["input_ids"].shape:
        raise ValidationError(
            f"the {who} answers with logits of shape {tuple(logits.shape)} for {len(feature.inputs['input_ids'])} "
            "tokens"
        )
    if int(feature.targets.max()) >= logits.shape[-1]:
        raise CheckpointError(
            f"the tokenizer has a token {feature.targets.max()}, the {who} scores {logits.shape[-1]}; they do not "
            "belong together"
        )
    # A view: neighbours in a row, as they always are.
    first = int(feature.positions[0]) if feature.positions is not None else 0
    kept: Tensor = logits.detach()[0, first : first + len(feature.targets)].to("cpu", torch.float32)
    if not bool(torch.isfinite(kept).all()):
        raise ValidationError(
            f"the {who} answers with NaN or infinity; if it is the package, export it with --precision float32"
        )
    return kept


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _mean_of_blocks(values: np.ndarray) -> ResampledScore:
    """The mean of values, (T,), on resamples of blocks of neighbours."""
    starts = np.arange(0, len(values), BLOCK)
    sums = np.add.reduceat(values.astype(np.float64), starts)
    counts = np.diff(np.append(starts, len(values)))
    return score_of_counts(np.stack([sums, counts], axis=1), lambda drawn: ratio(drawn[0], drawn[1], math.nan))


def _summarise(original: NextTokens, package: NextTokens, found: NextTokenDifferences) -> NextTokenReport:
    losses = original.log_probabilities - package.log_probabilities
    increase = _estimate(losses)
    ends = [None if end is None else _percent(end) for end in (increase.low, increase.high)]
    return NextTokenReport(
        kl_divergence=_estimate(found.divergences),
        # The logarithm of the ratio of two perplexities is a mean, so that its interval is one of means.
        perplexity_increase=Estimate(_percent(increase.value), *ends),
        top_1_agreement=_estimate(found.is_same),
        top_5_agreement=_estimate(found.is_among_best),
        median_row_psnr=quantile(found.row_psnr(), 0.5),
        low_row_psnr=quantile(found.row_psnr(), _LOW_QUANTILE),
    )


def _estimate(values: np.ndarray) -> Estimate:
    """The mean of values, (T,), with its confidence interval."""
    blocks = _blocks(len(values))
    ends = score_interval(_mean_of_blocks(values), blocks) if blocks >= _LEAST_BLOCKS else None
    return Estimate(float(np.mean(values)), *(ends or (None, None)))


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(min(log_ratio, 700.0))  # beyond it, exp overflows
