"""The snippets of a card fit the package's own program: names, shapes and types; the Python runs."""

import re

import coremltools as ct
import pytest
from card_packages import blocks_of, card_package, read_json
from tiny_models import TASKS

from optimum_ane.hub.card import make_card

LABELS = {0: 'say "no" \\(1 + 1)', 1: "línea\nnueva", 2: "👩‍💻 | `x`"}
FORMS = {
    **{task: ("bert", task, {}, {}) for task in TASKS},
    "no token types": ("roberta", "question-answering", {}, {}),
    "choices without token types": ("mpnet", "multiple-choice", {}, {}),
    "class labels": ("bert", "text-classification", {"id2label": LABELS}, {"class_labels": True}),
    "embeddings": ("bert", "feature-extraction", {}, {"pooling": "mean", "normalize": True}),
    "float32": ("distilbert", "text-classification", {}, {"precision": "float32"}),
    "iOS 15": ("distilbert", "text-classification", {}, {"minimum_deployment_target": "iOS15"}),
    "lengths": ("bert", "question-answering", {}, {"sequence_length": (8, 16)}),
    "rows": ("electra", "token-classification", {"id2label": LABELS}, {"batch_size": 3}),
}


@pytest.fixture(scope="module", params=FORMS)
def made(request, tiny_package):
    """The package's directory, its card's Swift, and the description of its program or of its longest function."""
    name, task, model, options = FORMS[request.param]
    directory = tiny_package(name, task, model={"num_hidden_layers": 1} | model, **options)
    swift = blocks_of(make_card([card_package(directory)], repo_id="org/model"))["swift"]
    return directory, swift, _longest(ct.utils.load_spec(str(directory / "model.mlpackage")).description)


def _longest(description):
    return max(description.functions, key=_length) if description.functions else description


def _length(description):
    return description.input[0].type.multiArrayType.shape[1]


def test_the_inputs_are_the_programs_own(made):
    _, swift, description = made
    names = re.findall(r'"(\w+)": feature\(', swift)
    assert names == [feature.name for feature in description.input]
    shapes = {tuple(feature.type.multiArrayType.shape) for feature in description.input}
    types = {feature.type.multiArrayType.dataType for feature in description.input}
    (rows, length), int32 = shapes.pop(), 131104
    assert types == {int32}
    assert "MLShapedArray<Int32>" in swift
    assert f"shape: [{rows}, length]" in swift
    assert f"let length = {length}\n" in swift
    assert ("Array(repeating: row, count: 3)" in swift) == (rows == 3)


def test_the_outputs_are_the_programs_own(made):
    _, swift, description = made
    arrays = {feature.name: feature.type.multiArrayType for feature in description.output}
    read = re.findall(r'row\("(\w+)", of:', swift) + re.findall(r'featureValue\(for: "(\w+)"\)', swift)
    assert read
    assert set(read) <= set(arrays)
    if description.predictedFeatureName:
        assert read == [description.predictedFeatureName, description.predictedProbabilitiesName]
    else:
        assert set(read) == set(arrays)
        stated = {65568: "Float32", 65552: "Float16"}[{array.dataType for array in arrays.values()}.pop()]
        assert f"It is {stated} in the package." in swift


def test_the_padding_is_the_checkpoints_own(made):
    directory, swift, _ = made
    padding = read_json(directory, "config.json")["pad_token_id"]
    assert padding == 1
    assert f'"input_ids": feature(tokens, padding: {padding})' in swift
    assert '"attention_mask": feature(Array(repeating: 1, count: tokens.count), padding: 0)' in swift


def test_nothing_is_left_open(made):
    """Brackets outside of strings and comments close, and no word of the templates is left."""
    _, swift, _ = made
    bare = re.sub(r'"(\\.|[^"\\\n])*"', "", swift)
    bare = re.sub(r"//.*", "", bare)
    stack = []
    for character in bare:
        if character in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}":
            assert stack.pop() == character
    assert stack == []
    assert '"' not in bare
    assert not re.search(r"\b(START|LABEL|LEADING|TRAILING|PROBABILITIES|None)\b", swift)
    # In a function that is not async: there the prediction that every system has is meant.
    assert "await model.prediction" not in swift
    assert re.search(r"func predict\([^)]*\) throws -> MLFeatureProvider", swift)


def test_every_function_that_is_called_is_there(made):
    _, swift, _ = made
    own = set(re.findall(r"func (\w+)\(", swift))
    assert {"encode", "predict", "example"} <= own
    called = re.search(r"print\(try \w+\.(\w+)\(", swift)[1]
    assert called in own
    type_name = re.search(r"struct (\w+) {", swift)[1]
    assert f"try await {type_name}(folder: folder)" in swift


def test_each_function_is_loaded_by_its_name_and_takes_the_rows_that_fit_it(made):
    directory, swift, _ = made
    description = ct.utils.load_spec(str(directory / "model.mlpackage")).description
    if not description.functions:
        assert "functionName" not in swift
        assert "model = try await MLModel.load(" in swift
        return
    named = {name: int(length) for name, length in re.findall(r'\("(\w+)", (\d+)\)', swift)}
    assert named == {function.name: _length(function) for function in description.functions}
    assert list(named.values()) == sorted(named.values())
    loop = swift[swift.index("for (name, tokens) in") : swift.index("self.functions = functions")]
    assert "configuration.functionName = name" in loop
    assert "MLModel.load(contentsOf: compiled, configuration: configuration)" in loop
    assert swift.count("MLModel.compileModel") == 1
    predict = swift[swift.index("func predict") :]
    assert predict.index("let (length, model) = functions.first { tokens.count <= $0.length }!") < predict.index(
        "func f"
    )


def test_the_python_beside_a_package_answers(made, monkeypatch, capsys):
    directory = made[0]
    monkeypatch.chdir(directory.parent)
    card = make_card([card_package(directory, path=directory.name)], repo_id=None)
    python = card.split("## Use from Python")[1].split("```python\n")[1].split("```")[0]
    exec(compile(python, "card", "exec"), {})
    assert capsys.readouterr().out
