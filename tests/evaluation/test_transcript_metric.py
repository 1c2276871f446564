import jiwer
import numpy as np
import pytest

from optimum_ane.evaluation.transcript_metric import TranscriptMetric, error_counts, normalize


def test_by_hand():
    """A word of five is another one, one is left out and one is too many; a comma and a capital count raw alone."""
    metrics = TranscriptMetric().compute(
        predictions=["Ever try ever failed failed"], references=["Ever tried, ever failed never."]
    )
    # Normalised: tried → try, never → failed. Raw: tried, → try and never. → failed too.
    assert metrics["wer"] == pytest.approx(2 / 5)
    assert metrics["raw_wer"] == pytest.approx(2 / 5)
    assert TranscriptMetric().compute(predictions=["fail better"], references=["Fail better."]) == {
        "wer": 0.0, "cer": 0.0, "raw_wer": 1.0, "raw_cer": pytest.approx(2 / 12),
    }  # fmt: skip


def test_all_texts_count_together_and_not_each_by_itself():
    """One word wrong of one, none of nine: a tenth, and not half."""
    metrics = TranscriptMetric().compute(predictions=["x", "a b c d e f g h i"], references=["y", "a b c d e f g h i"])
    assert metrics["wer"] == pytest.approx(0.1)


def test_as_jiwer_counts_random_texts():
    random = np.random.default_rng(0)
    words = ["a", "ab", "abc", "b", "bc", "c"]

    def texts():
        return [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(50)]

    predictions, references = texts(), texts()
    metrics = TranscriptMetric().compute(predictions=predictions, references=references)
    assert metrics["wer"] == pytest.approx(jiwer.wer(references, predictions))
    assert metrics["raw_cer"] == pytest.approx(jiwer.cer(references, predictions))


def test_silence_and_invented_words():
    counts = error_counts(["", "a b", ""], ["x y", "", ""])
    assert counts[:, :2].tolist() == [[2, 2], [2, 0], [0, 0]]
    assert np.isnan(TranscriptMetric().compute(predictions=["a"], references=["…"])["wer"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't—stop!", "dont stop"),
        ("  It’s   5 o'clock.\n", "its 5 oclock"),
        ("Ärger, naïve ＡＢＣ", "ärger naïve abc"),
        ("हिन्दी है", "हिन्दी है"),
        ("¿Qué?", "qué"),
        ("mid-night, a well‑known co-op - then", "midnight a wellknown coop then"),
        ("$5 + 3%", "5 3"),
    ],
)
def test_normalised_texts(text, expected):
    assert normalize(text) == expected
