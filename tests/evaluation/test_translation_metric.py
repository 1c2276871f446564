import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from optimum_ane.evaluation.translation_metric import TranslationMetric, resampled_bleu

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "hat", ",", "."]


def make_texts(count, seed):
    random = np.random.default_rng(seed)
    right = [" ".join(random.choice(WORDS, random.integers(4, 12))) for _ in range(count)]
    written = [" ".join(word for word in text.split() if random.random() > 0.2) for text in right]
    return written, [[text] for text in right]


def test_as_sacrebleu_scores_a_corpus():
    written, right = make_texts(60, 1)
    metrics = TranslationMetric().compute(predictions=written, references=right)
    streams = [[each[0] for each in right]]
    assert metrics["bleu"] == pytest.approx(BLEU().corpus_score(written, streams).score / 100)
    assert metrics["chrf"] == pytest.approx(CHRF().corpus_score(written, streams).score / 100)
    assert 0.2 < metrics["bleu"] < 0.9


def test_any_of_several_right_answers_will_do():
    metric = TranslationMetric()
    written, right = ["a cat sat on the mat .", "it ran"], [["the dog ran away", "a cat sat on the mat ."], ["it ran"]]
    metrics = metric.compute(predictions=written, references=right)
    assert metrics["bleu"] == pytest.approx(1)
    assert metric.compute(predictions=written, references=[each[:1] for each in right])["bleu"] < 0.5


def test_resamples_are_scored_as_corpora_of_their_rows():
    written, right = make_texts(30, 2)
    drawn = np.random.default_rng(3).integers(0, 30, (5, 30))
    scores = resampled_bleu(written, right)(drawn)
    for rows, score in zip(drawn, scores, strict=True):
        expected = BLEU().corpus_score([written[row] for row in rows], [[right[row][0] for row in rows]])
        assert score == pytest.approx(expected.score / 100)


def test_texts_that_share_nothing_or_are_empty():
    assert TranslationMetric().compute(predictions=["x y z", ""], references=[["a b c"], ["d"]])["bleu"] == 0
    assert resampled_bleu(["", ""], [["a"], ["b"]])(np.array([[0, 1]]))[0] == 0
