"""What evaluators share of models that write texts with `generate`: translations, summaries, captions, transcripts."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.bootstrap import score_of_labels
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature
from optimum_ane.evaluation.model_answers import BothAnswers, ModelAnswers, Outputs, accepted_inputs
from optimum_ane.evaluation.translation_metric import TranslationMetric, resampled_bleu
from optimum_ane.progress import Progress
from optimum_ane.validation.comparison import Model

SEQUENCES = "sequences"


class Writer(Protocol):
    """A model that writes."""

    def generate(self, **inputs: Any) -> Any:
        """Gives tokens, int64 (1, T)."""
        ...


@dataclass(frozen=True)
class SourceOfText(Feature):
    """What one text is written of: inputs are tensors of one row, (1, …) each.

    Attributes:
        options: Of `generate`, beside the inputs.
        read: Makes a text of tokens, without special ones.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[np.ndarray], str] = str


class WrittenText(NamedTuple):
    """A text.

    Attributes:
        text: What the model wrote.
        expected: What the original wrote; None without it.
    """

    text: str
    expected: str | None


W = TypeVar("W", bound=Examples)


class WritingEvaluator(Evaluator[W, SourceOfText, WrittenText]):
    """Scores a model by what its `generate` writes, as its own generation configuration has it.

    Rows are written one at a time, by both models: nothing is padded to other rows' lengths.
    """

    outputs: ClassVar[str] = "texts"

    @abstractmethod
    def source(self, preprocessor: Any, examples: W, row: int, sequence_length: int) -> tuple[SourceOfText, bool]:
        """Makes the inputs of a row; gives them with whether a part was cut off.

        Raises:
            DatasetError: The row cannot be taken.
        """

    def encode(
        self, preprocessor: Any, examples: W, rows: Sequence[int], sequence_length: int
    ) -> Encoded[SourceOfText]:
        """See `Evaluator.encode`."""
        sources = [self.source(preprocessor, examples, row, sequence_length) for row in rows]
        return Encoded([each for each, _ in sources], frozenset(each.row for each, is_cut in sources if is_cut))

    def collate(
        self, preprocessor: Any, features: Sequence[SourceOfText], length: int | None = None
    ) -> dict[str, Tensor]:
        """One row's inputs as they are."""
        return {name: torch.cat([feature.inputs[name] for feature in features]) for name in features[0].inputs}

    def answers(self, features: Sequence[SourceOfText], outputs: Sequence[Outputs]) -> Iterable[WrittenText]:
        """Reads tokens as texts."""
        return self.answers_beside(features, outputs, None)

    def answers_beside(
        self, features: Sequence[SourceOfText], outputs: Sequence[Outputs], expected: Sequence[Outputs] | None
    ) -> Iterable[WrittenText]:
        """See `Evaluator.answers_beside`."""
        for index, (feature, output) in enumerate(zip(features, outputs, strict=True)):
            right = None if expected is None else feature.read(expected[index][SEQUENCES])
            yield WrittenText(feature.read(output[SEQUENCES]), right)

    def run(
        self,
        reference: Model | None,
        candidate: Model,
        preprocessor: Any,
        examples: W,
        sequence_length: int,
        progress: Progress,
    ) -> BothAnswers[WrittenText]:
        """See `Evaluator.run`.

        Raises:
            ValidationError: A model cannot write.
        """
        package: ModelAnswers[WrittenText] = ModelAnswers()
        original: ModelAnswers[WrittenText] | None = None if reference is None else ModelAnswers()
        truncated = 0
        for row in range(len(examples)):
            source, is_cut = self.source(preprocessor, examples, row, sequence_length)
            truncated += is_cut
            expected: list[Outputs] | None = None
            if reference is not None and original is not None:
                expected = [_write(reference, source, original, "original")]
                original.answers += self.answers_beside([source], expected, expected)
            outputs = [_write(candidate, source, package, "package")]
            package.answers += self.answers_beside([source], outputs, expected)
            progress(row + 1, len(examples))
        return BothAnswers(package, original, None, truncated)


def reader_of(tokenizer: Any) -> Callable[[np.ndarray], str]:
    """What makes a text of tokens, without special ones."""
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


def _write(model: Model, source: SourceOfText, record: ModelAnswers[Any], who: str) -> Outputs:
    if not hasattr(model, "generate"):
        raise ValidationError(f"the {who} has no generate(); load it with the model class of its task")
    accepted = accepted_inputs(model)
    inputs = {name: value for name, value in source.inputs.items() if name in accepted} or source.inputs
    with torch.inference_mode():
        began = time.perf_counter()
        tokens = cast(Writer, model).generate(**inputs, **source.options)
        record.seconds += time.perf_counter() - began
    record.batch_size = 1
    tokens = tokens["sequences"] if isinstance(tokens, dict) else tokens
    return {SEQUENCES: tokens[0].cpu().numpy()}


def score_written(answers: Sequence[WrittenText], references: Sequence[Sequence[str]] | None, name: str) -> Scores:
    """BLEU, chrF and exact match with what is right.

    Args:
        answers: N texts.
        references: N lists of texts that are right; None takes what the original wrote for that.
        name: The dataset, for messages.

    Raises:
        ValidationError: There are no references, and no original.
    """
    texts = [answer.text for answer in answers]
    right: list[list[str]] = []
    for index, answer in enumerate(answers):
        if references is None and answer.expected is None:
            raise ValidationError(f"{name} has no texts that are right, and there is no original that says it")
        right.append([str(answer.expected)] if references is None else list(references[index]))
    exact = np.array([text.strip() in [each.strip() for each in own] for text, own in zip(texts, right, strict=True)])
    scores = TranslationMetric().compute(predictions=texts, references=right)
    match = {"exact_match": float(exact.mean())}
    if references is None:
        resampled = score_of_labels("accuracy", exact, np.ones(len(exact), dtype=bool))
        return Scores(match | scores, resampled, np.array(texts), int(exact.sum()))
    return Scores(scores | match, resampled_bleu(texts, right), np.array(texts), int(exact.sum()))
