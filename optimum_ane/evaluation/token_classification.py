"""Token classification, scored as seqeval scores it: whole entities, or words where tags mark no entities.

A dataset has words, and a model tokens: a word's tag is what the model says of the word's first token, as in
transformers' own example. The words are joined with spaces, so that they look to the tokenizer as they do in a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from optimum_ane.errors import CheckpointError, DatasetError
from optimum_ane.evaluation.bootstrap import ratio, score_of_counts
from optimum_ane.evaluation.columns import Wanted, check_different, find_column
from optimum_ane.evaluation.dataset_errors import MAX_FIELD_CHARACTERS, checked_list, checked_text, dataset_error
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.entity_metric import EntityMetric, entity_counts
from optimum_ane.evaluation.evaluator import Evaluator, Examples, Scores
from optimum_ane.evaluation.features import Encoded, Feature, longer_rows, model_inputs
from optimum_ane.evaluation.model_answers import Outputs
from optimum_ane.evaluation.tags import RawTags, TagSpace, as_iobes, names_entities

WORD_NAMES = ("tokens", "words", "token", "word", "sentence", "text")
"""Names that columns of words go by, best first."""

TAG_NAMES = ("ner_tags", "ner", "tags", "labels", "label", "ner_labels", "upos", "pos_tags", "pos", "chunk_tags")
"""Names that columns of tags go by, best first."""


@dataclass(frozen=True)
class TaggedWords(Examples):
    """Words with their tags.

    Attributes:
        words: A list of words for each of N rows.
        tags: A list of as many tags.
        names: The tag of each id of the checkpoint.
    """

    words: list[list[str]]
    tags: list[list[str]]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.words)


@dataclass(frozen=True)
class FirstTokens(Feature):
    """A row whose scored positions are the first tokens of its words.

    Attributes:
        words: int64 (K,), the word that each position begins.
    """

    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class TaggedRow(NamedTuple):
    """What a model says of one row.

    Attributes:
        row: The row.
        words: int64 (K,), the words that it speaks of.
        ids: int64 (K,), its tags of them.
    """

    row: int
    words: np.ndarray
    ids: np.ndarray


class TokenClassification(Evaluator[TaggedWords, FirstTokens, TaggedRow]):
    """Scores a token classifier. Columns: the words, the tags; lists, or texts with spaces between."""

    task: ClassVar[str] = "token-classification"
    unit: ClassVar[str] = "words"

    def load(self, spec: DatasetSpec) -> TaggedWords:
        """Loads words with tags, which become the checkpoint's."""
        spec.check_options(self.task, "text_column", "label_column")
        spec.check_config()
        table = open_table(spec, header_of(spec, {*WORD_NAMES, *TAG_NAMES}))
        words_column = find_column(table, Wanted("words", "--text-column", spec.text_column, WORD_NAMES))
        tags_column = find_column(table, Wanted("tags", "--label-column", spec.label_column, TAG_NAMES))
        check_different(table, (words_column, tags_column), "--text-column and --label-column")
        rows: list[int] = []
        words: list[list[str]] = []
        values: list[list[Any]] = []
        for row, (text, tags) in read_rows(table, (words_column, tags_column), spec.max_samples):
            rows.append(row)
            words.append(_words(text, table.name, row, words_column))
            tags = tags.split() if isinstance(tags, str) else tags
            values.append(checked_list(tags, table.name, row, tags_column, "tags"))
            if len(words[-1]) != len(values[-1]):
                what = f"{len(values[-1])} tags for {len(words[-1])} words"
                raise dataset_error(table.name, what, "mend the row", row=row, column=tags_column)
        raw = RawTags(table.name, tags_column, rows, values, table.class_names(tags_column))
        tags = TagSpace(self.config.id2label).encode(raw)
        if not any(words):
            raise dataset_error(table.name, "the rows have no words", "take another dataset", column=words_column)
        metric_config = "accuracy"
        if names_entities(tags.names):
            metric_config = "seqeval"
            if not any(as_iobes(tag) != "O" for row_tags in tags.gold for tag in row_tags):
                what = "no word is part of an entity, so there is no F1"
                raise dataset_error(table.name, what, "take other rows or another dataset", column=tags_column)
        return TaggedWords(table.name, metric_config, tags.mapping, words, tags.gold, tags.names)

    def encode(
        self, tokenizer: Any, examples: TaggedWords, rows: Sequence[int], sequence_length: int
    ) -> Encoded[FirstTokens]:
        """Makes one feature a row; words beyond the package's length are scored for neither model.

        Raises:
            CheckpointError: The tokenizer does not say where in the text its tokens stand.
        """
        if not tokenizer.is_fast:
            raise CheckpointError("the tokenizer does not tell which word a token is of; a tokenizer.json is needed")
        texts = [" ".join(examples.words[row]) for row in rows]
        whole = tokenizer(texts, padding=False, truncation=False, verbose=False)
        encoding = tokenizer(
            texts, padding=False, truncation=True, max_length=sequence_length, return_offsets_mapping=True
        )
        features = []
        for index, row in enumerate(rows):
            positions, words = _first_tokens(examples.words[row], encoding["offset_mapping"][index])
            if len(words):
                features.append(FirstTokens(model_inputs(tokenizer, encoding, index), row, positions, words))
        return Encoded(features, longer_rows(whole, rows, sequence_length))

    def answers(self, features: Sequence[FirstTokens], outputs: Sequence[Outputs]) -> Iterable[TaggedRow]:
        """Keeps the likeliest tag of each word."""
        for feature, output in zip(features, outputs, strict=True):
            yield TaggedRow(feature.row, feature.words, output["logits"].argmax(axis=-1))

    def score(self, examples: TaggedWords, answers: Sequence[TaggedRow]) -> Scores:
        """Measures F1, precision and recall of entities and accuracy of words; of plain tags, accuracy alone."""
        gold: list[list[str]] = [[] for _ in range(len(examples))]
        predicted: list[list[str]] = [[] for _ in range(len(examples))]
        for answer in answers:
            if answer.ids.max() >= len(examples.names):
                raise DatasetError(f"tag {answer.ids.max()} is predicted, there are {len(examples.names)} names")
            gold[answer.row] = [examples.tags[answer.row][word] for word in answer.words]
            predicted[answer.row] = [examples.names[number] for number in answer.ids]
        right = np.array([sum(map(str.__eq__, *pair)) for pair in zip(gold, predicted, strict=True)])
        words = np.array([len(tags) for tags in gold])
        ids = np.concatenate([answer.ids for answer in answers])
        counts = {self.unit: int(words.sum())}
        if examples.metric_config == "accuracy":
            resampled = score_of_counts(
                np.stack([right, words], axis=1), lambda sums: ratio(sums[0], sums[1], undefined=float("nan"))
            )
            return Scores({"accuracy": float(right.sum() / words.sum())}, resampled, ids, None, counts)
        gold = [[as_iobes(tag) for tag in tags] for tags in gold]
        predicted = [[as_iobes(tag) for tag in tags] for tags in predicted]
        entities = entity_counts(gold, predicted)
        counts["entities"] = int(entities[:, 2].sum())
        if counts["entities"] == 0:
            raise DatasetError(f"{examples.name}: the package's length cuts all entities off; take a longer one")
        metrics = EntityMetric().compute(predictions=predicted, references=gold)
        resampled = score_of_counts(entities, lambda sums: ratio(2 * sums[0], sums[1] + sums[2], undefined=0.0))
        return Scores(metrics, resampled, ids, None, counts)


def _words(value: Any, name: str, row: int, column: str) -> list[str]:
    words = value.split() if isinstance(value, str) else checked_list(value, name, row, column, "words")
    for word in words:
        checked_text(word, name, row, column)
    characters = sum(map(len, words))
    if characters > MAX_FIELD_CHARACTERS:
        what = f"the words have {characters:,} characters, the limit is {MAX_FIELD_CHARACTERS:,}"
        raise dataset_error(name, what, "shorten or remove the row", row=row, column=column)
    return words


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first token of each word of a text in which words stand one space apart.

    Args:
        words: The words.
        offsets: Where each token begins and ends in the text; special tokens are empty.

    Returns:
        The positions of the tokens, and which word each is of; words without a token are left out.
    """
    positions, found = [], []
    position, begin = 0, 0
    for number, word in enumerate(words):
        end = begin + len(word)
        # Tokens that end before it are of former words, or special. Some tokenizers count the space before a word.
        while position < len(offsets) and (
            offsets[position][1] <= begin or offsets[position][0] == offsets[position][1]
        ):
            position += 1
        if position < len(offsets) and offsets[position][0] < end:
            positions.append(position)
            found.append(number)
        begin = end + 1
    return np.array(positions, dtype=np.int64), np.array(found, dtype=np.int64)
