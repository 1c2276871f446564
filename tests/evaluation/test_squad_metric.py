import pytest

from optimum_ane.evaluation.squad_metric import SquadMetric, normalize_answer, question_scores


def test_answers_are_compared_without_case_articles_and_punctuation():
    assert normalize_answer(" The  Statue, of\tLiberty's (an) A-frame!") == "statue of libertys aframe"
    assert normalize_answer("An another theme") == "another theme"
    assert normalize_answer("the a an .") == ""
    assert normalize_answer("Rome–the–city") == "rome– –city"  # a dash is no punctuation to the official scripts


def test_by_hand():
    """Shared words over words: 2 of 2 and 3 gives 2·2/5; the second right answer fits better than the first."""
    scores = question_scores(
        ["the Eiffel Tower", "Eiffel tower of Paris", "Rome", "in in"],
        [["Eiffel tower!"], ["Tower", "the Eiffel Tower of"], ["Paris"], ["in a in in"]],
        "squad",
    )
    assert scores[:, 0] == pytest.approx([1, 2 * 3 / 7, 0, 2 * 2 / 5])
    assert scores[:, 1].tolist() == [1, 0, 0, 0]


def test_questions_without_an_answer():
    predictions, references = ["", "Rome", "Rome", ""], [[], [], ["Rome"], ["Rome"]]
    assert SquadMetric("squad_v2").compute(predictions=predictions, references=references) == {
        "f1": 0.5, "exact_match": 0.5, "HasAns_f1": 0.5, "HasAns_exact": 0.5, "NoAns_exact": 0.5,
    }  # fmt: skip
    assert set(SquadMetric("squad_v2").compute(predictions=["a"], references=[["b"]])) == {
        "f1", "exact_match", "HasAns_f1", "HasAns_exact",
    }  # fmt: skip


def test_the_versions_differ_on_answers_that_are_nothing_but_articles():
    """As the two official scripts do: 1.1 finds no shared word, 2.0 takes such an answer for none."""
    assert question_scores(["the"], [["a"]], "squad").tolist() == [[0, 1]]
    assert question_scores(["the"], [["a"]], "squad_v2").tolist() == [[1, 1]]
    assert question_scores([""], [["a", "x"]], "squad_v2").tolist() == [[0, 0]]
    assert question_scores(["x"], [["a", "x y"]], "squad_v2").tolist() == [[pytest.approx(2 / 3), 0]]


def test_unknown_version():
    with pytest.raises(ValueError, match="no metric for 'squad3'; there is one for each of: squad, squad_v2"):
        SquadMetric("squad3")
