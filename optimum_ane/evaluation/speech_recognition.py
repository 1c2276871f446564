"""Speech by a decoder that writes, Whisper say: word and character error rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Scores
from optimum_ane.evaluation.preprocessors import SpeechPreprocessor
from optimum_ane.evaluation.sound_files import Transcripts, open_sounds
from optimum_ane.evaluation.transcripts import SPEECH, rate_of, score_transcripts
from optimum_ane.evaluation.written_texts import SourceOfText, WritingEvaluator, WrittenText, reader_of


class SpeechRecognition(WritingEvaluator[Transcripts]):
    """Scores a model that writes what it hears. Columns: the sound, what is said in it."""

    task: ClassVar[str] = SPEECH
    unit: ClassVar[str] = "sounds"
    has_tokens: ClassVar[bool] = False

    def load(self, spec: DatasetSpec) -> Transcripts:
        """Finds sounds with transcripts."""
        return open_sounds(spec, self.task)

    def source(
        self, preprocessor: SpeechPreprocessor, examples: Transcripts, row: int, sequence_length: int
    ) -> tuple[SourceOfText, bool]:
        """Makes the feature extractor's numbers of a sound, whole: the model reads a longer one in windows.

        Raises:
            DatasetError: It is damaged, or the feature extractor cannot take it.
        """
        extractor = preprocessor.extractor
        rate = rate_of(extractor)
        samples = examples.open(row, rate).samples
        is_long = len(samples) > getattr(extractor, "n_samples", len(samples))
        # As transformers' pipeline has it: windows need to be told apart by timestamps.
        form: dict[str, Any] = {"truncation": False, "padding": "longest"} if is_long else {}
        try:
            given = extractor(samples, sampling_rate=rate, return_tensors="pt", return_attention_mask=True, **form)
        except Exception as error:  # extractors raise whatever a sound of odd length sets off
            raise DatasetError(
                f"{examples.files.place(row).name}: the feature extractor cannot take sound {row + 1} "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); remove it"
            ) from error
        options = {"return_timestamps": True} if is_long else {}
        return SourceOfText(dict(given), row, None, options, reader_of(preprocessor.tokenizer)), False

    def score(self, examples: Transcripts, answers: Sequence[WrittenText]) -> Scores:
        """See `score_transcripts`."""
        return score_transcripts(examples, [answer.text for answer in answers])
