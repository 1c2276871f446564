"""Translations, summaries and other texts of texts: BLEU, chrF and exact match with targets, or with the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optimum_ane.evaluation.columns import Wanted, check_different, find_column, find_optional_column
from optimum_ane.evaluation.dataset_errors import checked_text
from optimum_ane.evaluation.datasets import DatasetSpec, header_of, open_table, read_rows
from optimum_ane.evaluation.evaluator import Examples, Scores
from optimum_ane.evaluation.written_texts import SourceOfText, WritingEvaluator, WrittenText, reader_of, score_written

_SOURCES = ("text", "source", "src", "input", "inputs", "article", "document", "sentence")
_TARGETS = ("target", "tgt", "translation", "summary", "highlights", "output", "label", "reference")


@dataclass(frozen=True)
class TextsWithTargets(Examples):
    """Texts, and what should be written of them.

    Attributes:
        texts: N texts.
        targets: N texts; None where the dataset has none.
    """

    texts: list[str]
    targets: list[str] | None

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)


class Text2TextGeneration(WritingEvaluator[TextsWithTargets]):
    """Scores what is written of texts. Columns: the text, the target; without targets the original says what is right.

    Texts go in as they are: a prefix that a checkpoint wants, T5's "translate English to German: " say, belongs to the
    dataset.
    """

    task: ClassVar[str] = "text2text-generation"

    def load(self, spec: DatasetSpec) -> TextsWithTargets:
        """Loads texts, with `--label-column` as their targets."""
        spec.check_options(self.task, "text_column", "label_column")
        spec.check_config()
        table = open_table(spec, header_of(spec, (*_SOURCES, *_TARGETS)))
        text_wanted = Wanted("text", "--text-column", spec.text_column, _SOURCES)
        target_wanted = Wanted("target", "--label-column", spec.label_column, _TARGETS)
        if not table.headed and spec.text_column is None and len(table.columns) <= 2:
            text = table.columns[0]
            target = find_optional_column(table, target_wanted) or (table.columns[1:] or (None,))[0]
        else:
            is_single = len(table.columns) == 1 and spec.text_column is None
            text = table.columns[0] if is_single else find_column(table, text_wanted)
            target = find_optional_column(table, target_wanted)
        columns = [text] if target is None else [text, target]
        check_different(table, columns, "--text-column and --label-column")
        rows = [
            [checked_text(value, table.name, row, column) for value, column in zip(values, columns, strict=True)]
            for row, values in read_rows(table, columns, spec.max_samples)
        ]
        targets = None if target is None else [row[1] for row in rows]
        return TextsWithTargets(table.name, "bleu", None, [row[0] for row in rows], targets)

    def needs_original(self, examples: TextsWithTargets) -> bool:
        """See `Evaluator.needs_original`: where there are no targets."""
        return examples.targets is None

    def source(
        self, tokenizer: Any, examples: TextsWithTargets, row: int, sequence_length: int
    ) -> tuple[SourceOfText, bool]:
        """Makes tokens of a text, cut at the package's length."""
        text = examples.texts[row]
        encoding = tokenizer(text, truncation=True, max_length=sequence_length, return_tensors="pt")
        is_cut = len(tokenizer(text, verbose=False)["input_ids"]) > sequence_length
        inputs = {name: encoding[name].long() for name in tokenizer.model_input_names if name in encoding}
        return SourceOfText(inputs, row, read=reader_of(tokenizer)), is_cut

    def score(self, examples: TextsWithTargets, answers: Sequence[WrittenText]) -> Scores:
        """See `score_written`."""
        targets = None if examples.targets is None else [[target] for target in examples.targets]
        return score_written(answers, targets, examples.name)
