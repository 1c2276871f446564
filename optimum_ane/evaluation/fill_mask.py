"""Masked language models, scored on how well they restore tokens of plain text.

Four tokens of each text are masked, **one at a time**: the model sees all the rest of the text. That is what
pseudo-perplexity is defined by (Salazar et al. 2020, https://aclanthology.org/2020.acl-main.240), which masks every
token of a text in turn; masking a share of them at once, as training does, takes away context that it counts on. Four
and not all keep the cost at four calls a text, whatever its length; the texts weigh alike, then, rather than their
tokens. Which four is drawn from a generator that is seeded with the number of the row, so that the same tokens are
masked for both models, on every machine, and for any `--max-samples`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from optimum_ane.errors import CheckpointError, DatasetError
from optimum_ane.evaluation.bootstrap import ratio, score_of_counts
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature, longer_rows, model_inputs
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.plain_texts import read_texts

MASKS_PER_TEXT = 4
"""How many tokens of a text are masked, each alone; all of a shorter text."""

_BEST = 5


@dataclass(frozen=True)
class Texts(Examples):
    """Plain texts.

    Attributes:
        texts: N texts.
    """

    texts: list[str]

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)


@dataclass(frozen=True)
class MaskedToken(Feature):
    """A text with one token masked.

    Attributes:
        token: The id of the token that was there.
    """

    token: int = 0


class Restored(NamedTuple):
    """What a model says of one masked token.

    Attributes:
        row: The text.
        best: The id of the likeliest token.
        rank: How many tokens are likelier than the one that was there.
        log_probability: Of the token that was there, in nats.
    """

    row: int
    best: int
    rank: int
    log_probability: float


class FillMask(Evaluator[Texts, MaskedToken, Restored]):
    """Scores a masked language model. Column: the text."""

    task: ClassVar[str] = "fill-mask"
    unit: ClassVar[str] = "masked tokens"

    def load(self, spec: DatasetSpec) -> Texts:
        """Loads texts."""
        spec.check_options(self.task, "text_column")
        name, texts = read_texts(spec)
        return Texts(name, "masked_tokens", None, texts)

    def encode(
        self, tokenizer: Any, examples: Texts, rows: Sequence[int], sequence_length: int
    ) -> Encoded[MaskedToken]:
        """Makes a feature of each masked token; what is longer than the package loses its end.

        Special tokens are not masked, nor is what stands for words that the vocabulary lacks.

        Raises:
            CheckpointError: The tokenizer has no mask.
        """
        if tokenizer.mask_token_id is None:
            raise CheckpointError("the tokenizer has no mask token; take the tokenizer of a masked language model")
        texts = [examples.texts[row] for row in rows]
        whole = tokenizer(texts, padding=False, truncation=False, verbose=False)
        encoding = tokenizer(texts, padding=False, truncation=True, max_length=sequence_length)
        special = list(tokenizer.all_special_ids)
        features = []
        for index, row in enumerate(rows):
            inputs = model_inputs(tokenizer, encoding, index)
            ids = np.asarray(inputs["input_ids"])
            words = np.flatnonzero(~np.isin(ids, special))
            chosen = np.random.default_rng(row).permutation(words)[:MASKS_PER_TEXT]
            for position in np.sort(chosen):
                masked = ids.copy()
                masked[position] = tokenizer.mask_token_id
                features.append(
                    MaskedToken(
                        inputs | {"input_ids": masked.tolist()}, row, np.array([position]), token=int(ids[position])
                    )
                )
        return Encoded(features, longer_rows(whole, rows, sequence_length))

    def answers(self, features: Sequence[MaskedToken], outputs: Sequence[Outputs]) -> Iterable[Restored]:
        """Keeps rank and probability of the token that was there."""
        for feature, output in zip(features, outputs, strict=True):
            scores = output["logits"][0].astype(np.float64)
            if feature.token >= len(scores):
                raise CheckpointError(
                    f"the tokenizer has a token {feature.token}, the model scores {len(scores)}; they do not belong "
                    "together"
                )
            own = scores[feature.token]
            peak = scores.max()
            log_probability = own - peak - math.log(np.exp(scores - peak).sum())
            best = int(scores.argmax())
            # Of tokens with equal scores the first counts as the likeliest, as argmax has it.
            rank = int((scores > own).sum() + (scores[: feature.token] == own).sum())
            yield Restored(feature.row, best, rank, float(log_probability))

    def score(self, examples: Texts, answers: Sequence[Restored]) -> Scores:
        """Measures how often the token is the likeliest, or among the five likeliest, and pseudo-perplexity."""
        if not answers:
            raise DatasetError(f"{examples.name}: no text has a token that can be masked; take another dataset")
        ranks = np.array([answer.rank for answer in answers])
        rows = np.array([answer.row for answer in answers])
        hits = np.bincount(rows, weights=ranks == 0, minlength=len(examples))
        masked = np.bincount(rows, minlength=len(examples))
        with np.errstate(over="ignore"):  # infinite, for a model that rules out what was there
            perplexity = float(np.exp(-np.mean([answer.log_probability for answer in answers])))
        metrics = {
            "top_1_accuracy": float((ranks == 0).mean()),
            f"top_{_BEST}_accuracy": float((ranks < _BEST).mean()),
            "pseudo_perplexity": perplexity,
        }
        # Texts are drawn, not tokens: the four of a text fail together.
        resampled = score_of_counts(
            np.stack([hits, masked], axis=1), lambda sums: ratio(sums[0], sums[1], undefined=math.nan)
        )
        best = np.array([answer.best for answer in answers])
        return Scores(metrics, resampled, best, None, {self.unit: len(answers)})
