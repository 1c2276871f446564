import pytest

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.tags import RawTags, TagSpace, as_iobes, names_entities

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def encode(values, names=NAMES, class_names=None):
    raw = RawTags("dev", "ner_tags", list(range(2, 2 + len(values))), values, class_names)
    tags = TagSpace(dict(enumerate(names))).encode(raw)
    return tags.gold, tags.names, tags.mapping


def test_names_without_regard_to_case():
    assert encode([["o", "b-per"], ["I-LOC"]]) == ([["O", "B-PER"], ["I-LOC"]], NAMES, "by name")


def test_ids_of_the_checkpoint():
    assert encode([[0, 1], [], [4]]) == ([["O", "B-PER"], [], ["I-LOC"]], NAMES, "by id")
    assert encode([["0", "1"], ["4"]]) == ([["O", "B-PER"], ["I-LOC"]], NAMES, "by id")
    with pytest.raises(DatasetError, match=r"row 3, column ner_tags: 5 is none of the model's labels, 0 to 4"):
        encode([[0], [5]])
    with pytest.raises(DatasetError, match="-100 is none of the model's labels"):
        encode([[-100]])


def test_declared_classes_decide_by_name():
    """The dataset numbers its classes in another order than the checkpoint."""
    classes = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert encode([[3, 4, 0]], class_names=classes) == ([["B-PER", "I-PER", "O"]], NAMES, "by name")
    with pytest.raises(DatasetError, match="7 is none of the dataset's classes, 0 to 4"):
        encode([[7]], class_names=classes)


def test_declared_classes_lend_their_names_to_numbered_labels():
    numbered = tuple(f"LABEL_{index}" for index in range(3))
    classes = ("O", "B-PER", "I-PER")
    assert encode([[1, 2]], numbered, classes) == ([["B-PER", "I-PER"]], classes, "by id")
    with pytest.raises(DatasetError, match="the model does not know the tag 'B-PER'; it knows LABEL_0, LABEL_1"):
        encode([[1]], numbered, (*classes, "B-LOC"))


def test_a_tag_of_another_scheme_is_let_through_if_its_type_is_known():
    """Many checkpoints of CoNLL 2003 know `I-PER` alone; the dataset has `B-PER`."""
    assert encode([["B-per", "I-PER"]], ("O", "I-PER"))[0] == [["B-PER", "I-PER"]]
    with pytest.raises(DatasetError, match="row 3, column ner_tags: the model does not know the tag 'B-MISC'"):
        encode([["B-PER"], ["B-MISC"]], ("O", "I-PER"))


@pytest.mark.parametrize("value", [None, 1.5, True, ["B-PER"], {"a": 1}])
def test_what_is_no_tag(value):
    with pytest.raises(DatasetError, match="row 2, column ner_tags"):
        encode([["O", value]])
    with pytest.raises(DatasetError, match="row 2, column ner_tags"):
        encode([[0, value]])


def test_entities_or_classes_of_words():
    assert names_entities(NAMES)
    assert not names_entities(("NOUN", "VERB", "O", "X", "B-", "-PER"))


def test_every_scheme_as_seqeval_reads_it():
    tags = ["B-PER", "I-PER", "L-PER", "U-LOC", "M-LOC", "E-LOC", "S-LOC", "W-LOC", "O", "[CLS]", "B-a-b"]
    assert [as_iobes(tag) for tag in tags] == [
        "B-PER", "I-PER", "E-PER", "S-LOC", "I-LOC", "E-LOC", "S-LOC", "S-LOC", "O", "O", "B-a-b",
    ]  # fmt: skip
