import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import BILOU, IOB2, IOBES

from optimum_ane.evaluation.entity_metric import EntityMetric, entity_counts
from optimum_ane.evaluation.tags import as_iobes


def compute(gold, predicted):
    return EntityMetric().compute(predictions=predicted, references=gold)


def test_by_hand():
    """Of 3 entities one is found whole, one with a wrong end, one with a wrong type."""
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "I-ORG", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "B-ORG", "O", "O"]]
    assert entity_counts(gold, predicted).tolist() == [[1, 2, 2], [0, 1, 1]]
    expected = {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 6 / 8}
    assert compute(gold, predicted) == pytest.approx(expected)


def test_precision_is_not_recall():
    gold, predicted = [["B-PER", "B-PER", "B-PER", "O"]], [["B-PER", "O", "O", "O"]]
    expected = {"f1": 0.5, "precision": 1.0, "recall": 1 / 3, "accuracy": 0.5}
    assert compute(gold, predicted) == pytest.approx(expected)


def test_an_entity_ends_with_its_row():
    assert entity_counts([["B-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]]).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_nothing_found():
    assert compute([["B-PER"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [(IOB2, ("B-{}", "I-{}", "I-{}", "B-{}")), (IOBES, ("B-{}", "I-{}", "E-{}", "S-{}")),
     (BILOU, ("B-{}", "I-{}", "L-{}", "U-{}"))],
)  # fmt: skip
def test_well_formed_tags_score_as_in_seqevals_strict_mode(scheme, tags):
    random = np.random.default_rng(0)

    def sentence():
        found = []
        while len(found) < 9:
            kind, length = random.choice(["PER", "LOC"]), random.integers(0, 4)
            chunk = [["O"], [tags[3]], [tags[0], tags[2]], [tags[0], tags[1], tags[2]]][length]
            found += [tag.format(kind) for tag in chunk]
        return found + ["O"] * (12 - len(found))

    gold, other = ([sentence() for _ in range(40)] for _ in range(2))
    predicted = [one if random.random() < 0.6 else two for one, two in zip(gold, other, strict=True)]
    strict = f1_score(gold, predicted, mode="strict", scheme=scheme)
    assert 0.3 < strict < 0.95
    translated = [[[as_iobes(tag) for tag in row] for row in rows] for rows in (gold, predicted)]
    assert compute(*translated)["f1"] == pytest.approx(strict)
    right, found, there = entity_counts(*translated).sum(axis=0)
    assert 2 * right / (found + there) == pytest.approx(strict)
