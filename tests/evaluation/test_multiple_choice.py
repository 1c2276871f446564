import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import make_number_tokenizer

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.multiple_choice import Choices, MultipleChoice

EVALUATOR = MultipleChoice(SimpleNamespace())


class SumOfTokens:
    """Scores a choice by the sum of its tokens, as they stand or negated."""

    def __init__(self, sign=1):
        self.sign = sign
        self.calls = []

    def __call__(self, input_ids, attention_mask):
        self.calls.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.sign * (input_ids * attention_mask).sum(-1).float())


def questions(*rows):
    contexts, choices, labels = zip(*rows, strict=True)
    return Choices("dev", "accuracy", None, list(contexts), [list(each) for each in choices], list(labels))


def run(data, package, reference=None, sequence_length=8):
    return EVALUATOR.compare(
        reference,
        lambda token_type_ids, **inputs: package(**inputs),
        make_number_tokenizer(),
        data,
        sequence_length=sequence_length,
        runtime="portable",
    )


def test_by_hand():
    data = questions(("1", ("2", "9", "3"), 1), ("1", ("7", "4", "5"), 0), ("1", ("3", "4", "8"), 1))
    report = run(data, SumOfTokens(-1), SumOfTokens())
    assert (report.original.right, report.package.right) == (2, 0)
    assert (report.original.metrics, report.package.metrics) == ({"accuracy": pytest.approx(2 / 3)}, {"accuracy": 0.0})
    assert (report.drop, report.agreement, report.rows) == (pytest.approx(200 / 3), 0.0, 3)


def test_shapes_batches_and_different_numbers_of_choices():
    """Rows of as many choices go through the model together; the order of the rows is kept."""
    counts = [2] * 20 + [3, 4, 4]
    data = questions(*(("1", [str(index + 10 * choice) for choice in range(count)], count - 1)
                       for index, count in enumerate(counts)))  # fmt: skip
    package, reference = SumOfTokens(), SumOfTokens()
    report = run(data, package, reference)
    assert reference.calls == [(16, 2, 2), (4, 2, 2), (1, 3, 2), (2, 4, 2)]
    assert package.calls == reference.calls
    assert (report.package.right, report.package.batch_size) == (23, 16)


def test_rows_are_cut_once():
    data = questions(("1 2 3", ("4 5 6 7", "4 5 6 7"), 0), ("1", ("2", "3"), 1), ("1", ("2 3 4 5 6", "3"), 1))
    assert run(data, SumOfTokens(), sequence_length=4).truncated == 2


def test_scores_of_the_wrong_number():
    data = questions(("1", ("2", "3"), 0))
    with pytest.raises(ValidationError, match=r"the package answers with logits of shape \(1, 3\) for 1 rows"):
        run(data, lambda **inputs: SimpleNamespace(logits=torch.zeros(1, 3)))


# The dataset


def load(tmp_path, *rows, **options):
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return EVALUATOR.load(DatasetSpec(str(path), **options))


SWAG = {"sent1": "He sits.", "sent2": "He"}
SWAG |= {"ending0": "sings.", "ending1": "flies.", "ending2": "is.", "ending3": "a.", "label": 2}


@pytest.mark.parametrize(
    ("row", "context", "choices", "label"),
    [
        (SWAG, "He sits.", ["He sings.", "He flies.", "He is.", "He a."], 2),
        ({"ctx_a": "He sits.", "ctx_b": "he", "ctx": "x", "endings": ["sings.", "flies."], "label": "1"},
         "He sits.", ["he sings.", "he flies."], 1),
        ({"ctx_a": "He sits.", "ctx_b": "", "endings": ["sings.", "flies."], "label": "1"},
         "He sits.", ["sings.", "flies."], 1),
        ({"article": "Text.", "question": "Why?", "options": ["A fox", "Two"], "answer": "B"},
         "Text.", ["Why? A fox", "Why? Two"], 1),
        ({"question": "Why?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
         "Why?", ["x", "y"], 1),
        ({"question": "Why?", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "1"},
         "Why?", ["x", "y"], 0),
        ({"premise": "It rained.", "choice1": "wet", "choice2": "dry", "question": "effect", "label": 0},
         "It rained.", ["effect wet", "effect dry"], 0),
        ({"goal": "Dry it.", "sol1": "wipe", "sol2": "burn", "label": 0.0}, "Dry it.", ["wipe", "burn"], 0),
    ],
)  # fmt: skip
def test_usual_forms(tmp_path, row, context, choices, label):
    data = load(tmp_path, row)
    assert (data.contexts, data.choices, data.labels) == ([context], [choices], [label])


def test_columns_by_option(tmp_path):
    (tmp_path / "dev.csv").write_text("a,b,c,d\nctx,one,two,1\n")
    spec = DatasetSpec(str(tmp_path / "dev.csv"), text_column="a", label_column="d", choices_columns=("b", "2"))
    data = EVALUATOR.load(spec)
    assert (data.contexts, data.choices, data.labels) == (["ctx"], [["one", "two"]], [1])


def test_swag_as_csv(tmp_path):
    lines = ["," + ",".join(SWAG), "0," + ",".join(map(str, SWAG.values()))]
    (tmp_path / "dev.csv").write_text("\n".join(lines))
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.csv"))).choices[0][3] == "He a."


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"label": 4}, "column label: label 4 of 4 choices, which count from 0"),
        ({"label": -1}, r"column label: the row has no label \(-1\), as in the test splits"),
        ({"label": "E"}, "column label: 'E' is neither the number nor the letter of a choice"),
        ({"label": ""}, "column label: '' is neither the number"),
        ({"label": 0.5}, "column label: 0.5 is neither the number"),
        ({"label": True}, "column label: True is neither the number"),
        ({"label": [1]}, r"column label: \[1\] is neither the number"),
        ({"label": "9" * 400}, "column label: label '9+…? of 4 choices|column label: '9+"),
        ({"ending2": None}, "column ending2: a text is expected, found nothing"),
        ({"sent1": 3}, "column sent1: a text is expected, found int"),
    ],
)
def test_flawed_rows(tmp_path, fields, what):
    with pytest.raises(DatasetError, match=f"row 2, {what}") as caught:
        load(tmp_path, SWAG, SWAG | fields)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        (["x"], "column choices: 1 choices, where 2 to 26 make a question"),
        ([], "0 choices, where 2 to 26"),
        (["x"] * 27, "27 choices, where 2 to 26"),
        ("x, y", "a list of choices is expected, found str"),
        ({"label": ["A", "B"]}, "a list of choices is expected, found nothing"),
        (["x", 1], "a text is expected, found int"),
    ],
)
def test_flawed_lists(tmp_path, choices, what):
    with pytest.raises(DatasetError, match=f"row 1.*{what}"):
        load(tmp_path, {"question": "q", "choices": choices, "label": 0})


def test_no_choices_are_found(tmp_path):
    with pytest.raises(DatasetError, match="no column of choices is recognised among: question, ending0, label; name"):
        load(tmp_path, {"question": "q", "ending0": "a", "label": 0})
    with pytest.raises(DatasetError, match="no column of choices"):  # one is missing in the middle
        load(tmp_path, {"question": "q", "ending0": "a", "ending2": "a", "label": 0})
    with pytest.raises(DatasetError, match="there is no column 'x'"):
        load(tmp_path, SWAG, choices_columns=("x", "ending0"))
    with pytest.raises(DatasetError, match="one column serves twice"):
        load(tmp_path, SWAG, choices_columns=("ending0", "ending0"))


def test_ten_and_more_numbered_columns_stand_in_the_order_of_their_numbers(tmp_path):
    row = {"question": "q"} | {f"option_{index}": str(index) for index in range(11)} | {"answer": "K"}
    data = load(tmp_path, row)
    assert (data.choices[0], data.labels) == ([str(index) for index in range(11)], [10])


def test_agreement_with_a_random_guess():
    random = np.random.default_rng(0)
    rows = [("1", [str(number) for number in random.permutation(90)[:4]], int(random.integers(4))) for _ in range(200)]
    report = run(questions(*rows), SumOfTokens(), SumOfTokens(-1))
    assert 0.15 < report.package.metrics["accuracy"] < 0.35
    assert report.agreement == 0.0
    low, high = report.drop_interval
    assert low < report.drop < high
