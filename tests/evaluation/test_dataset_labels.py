from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from optimum_ane.errors import CheckpointError, DatasetError
from optimum_ane.evaluation.labels import LabelSpace, RawLabels, class_names_of_schema
from optimum_ane.package.problem_types import problem_type_of

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def encode(values, names, problem_type=SINGLE, class_names=None):
    raw = RawLabels("dev", "label", range(2, 2 + len(values)), values, class_names)
    labels, mapping = LabelSpace(dict(enumerate(names)), problem_type).encode(raw)
    return labels.tolist(), mapping


def test_names_without_regard_to_case():
    assert encode(["entailment", " NEUTRAL "], ["Neutral", "Entailment"]) == ([1, 0], "by name")


def test_names_that_differ_in_case_alone():
    assert encode(["a", "A"], ["A", "a"]) == ([1, 0], "by name")
    with pytest.raises(DatasetError, match="the label ' A'"):
        encode([" A"], ["A", "a"])


def test_numbers():
    assert encode(["0", "1"], ["NO", "YES"]) == ([0, 1], "by id")
    assert encode([0, True, 1.0], ["NO", "YES"]) == ([0, 1, 1], "by id")


@pytest.mark.parametrize("value", ["-1", "2", 2, -1, 0.5, "٣", "1.0", "", "9" * 5000, None, [[0]], {}, float("nan")])
def test_what_is_no_label(value):
    with pytest.raises(DatasetError, match="dev, row 3, column label: the model does not know the label"):
        encode([1, value], ["NO", "YES"])


def test_a_column_is_read_one_way():
    """Stars "1" to "3" are names where all are names, and ids where one of them is no name."""
    assert encode(["1", "3"], ["1", "2", "3"]) == ([0, 2], "by name")
    assert encode(["0", "1"], ["1", "2", "3"]) == ([0, 1], "by id")
    with pytest.raises(DatasetError, match="row 3, column label: the model does not know the label '0'"):
        encode(["YES", "0", "NO"], ["NO", "YES"])


def test_declared_classes_decide_by_name_where_the_checkpoint_knows_them():
    """MNLI's checkpoints number their labels in several orders."""
    mnli = ("entailment", "neutral", "contradiction")
    assert encode([0, 1, 2], ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], class_names=mnli) == ([2, 1, 0], "by name")
    assert encode([0, 1, 2], ["LABEL_0", "LABEL_1", "LABEL_2"], class_names=mnli) == ([0, 1, 2], "by id")
    with pytest.raises(DatasetError, match="does not know the label 'neutral'"):
        encode([0, 1], ["contradiction", "entailment"], class_names=mnli)


def test_secret_labels():
    with pytest.raises(DatasetError, match=r"row 2, column label: the row has no label \(-1\), as in the test splits"):
        encode([-1], ["NO", "YES"], class_names=("no", "yes"))
    with pytest.raises(DatasetError, match="7 is none of the dataset's classes"):
        encode([7], ["NO", "YES"], class_names=("no", "yes"))


def test_regression():
    labels, mapping = encode([1, "2.5", -3.0], ["LABEL_0"], REGRESSION)
    assert (labels, mapping) == ([1.0, 2.5, -3.0], "as values")
    for value in ("good", float("inf"), "nan", None, True, 10**400):
        with pytest.raises(DatasetError, match=r"row 2, column label: .* is not a finite number"):
            encode([value], ["LABEL_0"], REGRESSION)


@pytest.mark.parametrize(
    "values",
    [["joy,anger", "", "fear"], [["joy", "anger"], [], ["fear"]], [[1, 0], [], [2]], ["0, 1", "", "2"],
     [[1, 1, 0], [0, 0, 0], [0, 0, 1]], ["1,1,0", "0,0,0", "0,0,1"]],
)  # fmt: skip
def test_several_labels(values):
    labels, _ = encode(values, ["anger", "joy", "fear"], MULTI)
    assert labels == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_several_labels_refused():
    with pytest.raises(DatasetError, match="row 3, column label: the model does not know the label 'awe'"):
        encode(["joy", "joy,awe"], ["anger", "joy"], MULTI)
    with pytest.raises(DatasetError, match="row 2, column label: there is no list of labels"):
        encode([None], ["anger", "joy"], MULTI)


def test_types_and_shapes():
    def array(values, problem_type):
        raw = RawLabels("dev", "label", [1, 2], values)
        return LabelSpace({0: "a", 1: "b"}, problem_type).encode(raw)[0]

    assert (array([0, 1], SINGLE).dtype, array([0, 1], SINGLE).shape) == (np.int64, (2,))
    assert (array(["", ""], MULTI).dtype, array(["", ""], MULTI).shape) == (np.int64, (2, 2))
    assert array([0, 1], REGRESSION).dtype == np.float64


def test_ids_of_the_checkpoint():
    assert LabelSpace({"1": "b", "0": "a"}, SINGLE).names == ("a", "b")
    with pytest.raises(CheckpointError, match=r"numbers its labels \[0, 2\]"):
        LabelSpace({0: "a", 2: "b"}, SINGLE)


@pytest.mark.parametrize(
    ("declared", "count", "expected"),
    [(None, 2, SINGLE), (None, 1, REGRESSION), (MULTI, 3, MULTI), (REGRESSION, 1, REGRESSION), (SINGLE, 1, SINGLE)],
)
def test_problem_type(declared, count, expected):
    assert problem_type_of(SimpleNamespace(problem_type=declared, num_labels=count)) == expected


def test_classes_declared_in_parquet(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features).to_parquet(tmp_path / "dev.parquet")
    metadata = pyarrow.parquet.read_schema(tmp_path / "dev.parquet").metadata
    assert class_names_of_schema(metadata, "label") == ("no", "yes")
    assert class_names_of_schema(metadata, "text") is None
    features = datasets.Features({"tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))})
    datasets.Dataset.from_dict({"tags": [[1]]}, features=features).to_parquet(tmp_path / "dev.parquet")
    metadata = pyarrow.parquet.read_schema(tmp_path / "dev.parquet").metadata
    assert class_names_of_schema(metadata, "tags") == ("O", "B-PER")


@pytest.mark.parametrize(
    "stored", [b"", b"[]", b"{", b'{"info": 3}', b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
               b'{"info": {"features": {"label": [1]}}}', b'{"info": {"features": {"label": {"feature": 3}}}}',
               b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, {}]}}}}', b"[" * 100_000]
)  # fmt: skip
def test_foreign_metadata_is_passed_over(stored):
    assert class_names_of_schema({b"huggingface": stored}, "label") is None
    assert class_names_of_schema(None, "label") is None
