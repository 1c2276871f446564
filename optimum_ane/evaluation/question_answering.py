"""Extractive question answering, scored as SQuAD scores it.

A context that is longer than the package is read in windows that overlap by a third of the package's length (by 128
tokens of 384, as in transformers' own example), and each window is run through the model. Of each window the 20 best
starts and the 20 best ends make candidates of at most 30 tokens; the best candidate of all windows is the answer.
Where questions may have none, the answer is empty if the score of the first token, start and end, is higher in every
window than that of the best candidate: again as in transformers' own example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from optimum_ane.errors import CheckpointError, ShapeError
from optimum_ane.evaluation.bootstrap import score_of_counts
from optimum_ane.evaluation.columns import Wanted, check_different, find_column
from optimum_ane.evaluation.dataset_errors import checked_list, checked_text, dataset_error, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature, model_inputs
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.squad_metric import SQUAD, SQUAD_CONFIGS, SQUAD_V2, SquadMetric, question_scores

QUESTION_NAMES = ("question", "query")
CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "text")
ANSWER_NAMES = ("answers", "answer", "answer_text")

BEST = 20
"""How many starts and how many ends are tried in each window."""

LONGEST_ANSWER = 30
"""In tokens."""


@dataclass(frozen=True)
class Questions(Examples):
    """Questions about texts.

    Attributes:
        questions: N questions.
        contexts: The text that each is about.
        answers: A list of right answers for each; empty where there is none.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[list[str]]

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self.questions)


@dataclass(frozen=True)
class Window(Feature):
    """A question with a part of its context.

    Attributes:
        offsets: Where in the context each token begins and ends; None for tokens that are not of the context.
        first: The token whose score says that there is no answer.
    """

    offsets: tuple[tuple[int, int] | None, ...] = ()
    first: int = 0


class Span(NamedTuple):
    """What a model says of one window.

    Attributes:
        row: The question.
        begin: Where the best candidate begins in the context; None if there is no candidate.
        end: Where it ends.
        score: Its score, a sum of two logits.
        no_answer: The score of there being no answer.
    """

    row: int
    begin: int | None
    end: int
    score: float
    no_answer: float


class QuestionAnswering(Evaluator[Questions, Window, Span]):
    """Scores an extractive model. Columns: question, context, answers.

    Answers are SQuAD's `{"text": [...], "answer_start": [...]}`, of which only the texts are read, a list of texts,
    or one text. With questions that have none, the metrics are those of SQuAD 2.0.
    """

    task: ClassVar[str] = "question-answering"
    outputs: ClassVar[str] = "start and end logits"

    def load(self, spec: DatasetSpec) -> Questions:
        """Loads questions with contexts and answers."""
        spec.check_options(self.task, "text_column", "text_pair_column", "label_column")
        spec.check_config(*SQUAD_CONFIGS)
        table = open_table(spec, header_of(spec, {*QUESTION_NAMES, *CONTEXT_NAMES, *ANSWER_NAMES}))
        columns = (
            find_column(table, Wanted("question", "--text-column", spec.text_column, QUESTION_NAMES)),
            find_column(table, Wanted("context", "--text-pair-column", spec.text_pair_column, CONTEXT_NAMES)),
            find_column(table, Wanted("answers", "--label-column", spec.label_column, ANSWER_NAMES)),
        )
        check_different(table, columns, "--text-column, --text-pair-column and --label-column")
        questions, contexts, answers = [], [], []
        config = SQUAD_V2 if spec.config == SQUAD_V2 or "squad_v2" in spec.dataset.split("/") else SQUAD
        for row, (question, context, answer) in read_rows(table, columns, spec.max_samples):
            questions.append(checked_text(question, table.name, row, columns[0]).lstrip())
            contexts.append(checked_text(context, table.name, row, columns[1]))
            answers.append(_answers(answer, table.name, row, columns[2]))
            for kind, text, column in zip(
                ("question", "context"), (questions[-1], contexts[-1]), columns, strict=False
            ):
                if not text.strip():
                    raise dataset_error(table.name, f"the {kind} is empty", "mend the row", row=row, column=column)
            if not answers[-1]:
                if spec.config == SQUAD and spec.is_local:
                    what = f"there is no answer, which {SQUAD} does not know"
                    remedy = f"mend the row, or take --dataset-config {SQUAD_V2}"
                    raise dataset_error(table.name, what, remedy, row=row, column=columns[2])
                config = SQUAD_V2
        return Questions(table.name, config, None, questions, contexts, answers)

    def encode(
        self, tokenizer: Any, examples: Questions, rows: Sequence[int], sequence_length: int
    ) -> Encoded[Window]:
        """Makes a feature of each window; only a question longer than half the package loses its end.

        Raises:
            CheckpointError: The tokenizer does not say where in the text its tokens stand.
            ShapeError: The package is too short for a question and a context.
        """
        if not tokenizer.is_fast:
            raise CheckpointError("the tokenizer does not tell where its tokens stand; a tokenizer.json is needed")
        special = tokenizer.num_special_tokens_to_add(pair=True)
        longest = (sequence_length - special) // 2
        if longest < 1:
            raise ShapeError(
                f"{sequence_length} tokens hold no question and context with {special} special tokens; export with a "
                "longer --sequence-length"
            )
        features: list[Window] = []
        truncated = set()
        for row in rows:
            question, length = _cut(tokenizer, examples.questions[row], longest)
            if question != examples.questions[row]:
                truncated.add(row)
            room = sequence_length - special - length
            stride = min(sequence_length // 3, room // 2)
            features += _windows(tokenizer, question, examples.contexts[row], row, sequence_length, stride)
        return Encoded(features, frozenset(truncated))

    def answers(self, features: Sequence[Window], outputs: Sequence[Outputs]) -> Iterable[Span]:
        """Keeps the best candidate of each window and the score of no answer."""
        for feature, output in zip(features, outputs, strict=True):
            starts, ends = output["start_logits"].astype(np.float64), output["end_logits"].astype(np.float64)
            no_answer = float(starts[feature.first] + ends[feature.first])
            best = _best_candidate(feature.offsets, starts, ends)
            if best is None:
                yield Span(feature.row, None, 0, -np.inf, no_answer)
                continue
            start, end = best
            begins, stops = feature.offsets[start], feature.offsets[end]
            assert begins is not None
            assert stops is not None
            yield Span(feature.row, begins[0], stops[1], float(starts[start] + ends[end]), no_answer)

    def score(self, examples: Questions, answers: Sequence[Span]) -> Scores:
        """Measures F1 and exact match."""
        predictions = ["" for _ in range(len(examples))]
        best: dict[int, Span] = {}
        lowest: dict[int, float] = {}
        for span in answers:
            if span.row not in best or span.score > best[span.row].score:
                best[span.row] = span
            lowest[span.row] = min(span.no_answer, lowest.get(span.row, np.inf))
        for row, span in best.items():
            has_none = examples.metric_config == SQUAD_V2 and lowest[row] > span.score
            if span.begin is not None and not has_none:
                predictions[row] = examples.contexts[row][span.begin : span.end]
        metrics = SquadMetric(examples.metric_config).compute(predictions=predictions, references=examples.answers)
        scores = question_scores(predictions, examples.answers, examples.metric_config)
        rows = len(examples)
        resampled = score_of_counts(scores[:, :1], lambda sums: sums[0] / rows)
        right = int(scores[:, 1].sum())
        return Scores(metrics, resampled, np.array(predictions, dtype=object), right, {"windows": len(answers)})


def _cut(tokenizer: Any, question: str, longest: int) -> tuple[str, int]:
    """A question of at most `longest` tokens, and how many it has."""
    while True:
        offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        if len(offsets) <= longest:
            return question, len(offsets)
        # What is left may be tokenised differently at its end, but is shorter each time.
        question = question[: min(offsets[longest - 1][1], len(question) - 1)]


def _windows(
    tokenizer: Any, question: str, context: str, row: int, sequence_length: int, stride: int
) -> Iterator[Window]:
    encoding = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=sequence_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    for index, ids in enumerate(encoding["input_ids"]):
        parts = encoding.sequence_ids(index)
        offsets = tuple(
            place if part == 1 else None for part, place in zip(parts, encoding["offset_mapping"][index], strict=True)
        )
        first = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        yield Window(model_inputs(tokenizer, encoding, index), row, np.arange(len(ids)), offsets, first)


def _best_candidate(
    offsets: Sequence[tuple[int, int] | None], starts: np.ndarray, ends: np.ndarray
) -> tuple[int, int] | None:
    """The best pair of a start and an end within the context, as positions in the window."""
    in_context = np.array([place is not None for place in offsets])
    # The best of all tokens, those of the question too: what is not in the context then drops out, as in the example.
    first, last = np.argsort(-starts, kind="stable")[:BEST], np.argsort(-ends, kind="stable")[:BEST]
    lengths = last[None, :] - first[:, None] + 1
    allowed = in_context[first][:, None] & in_context[last][None, :] & (lengths >= 1) & (lengths <= LONGEST_ANSWER)
    if not allowed.any():
        return None
    scores = np.where(allowed, starts[first][:, None] + ends[last][None, :], -np.inf)
    start, end = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(first[start]), int(last[end])


def _answers(value: Any, name: str, row: int, column: str) -> list[str]:
    if isinstance(value, dict):
        if "text" not in value:
            what = f"answers without the key 'text': {quoted(value)}"
            raise dataset_error(name, what, 'write {"text": [...], "answer_start": [...]}', row=row, column=column)
        value = value["text"]
    if isinstance(value, str):
        value = [value] if value else []
    return [checked_text(answer, name, row, column) for answer in checked_list(value, name, row, column, "answers")]
