"""The Swift of a card: names, shapes and types are those of the package's own program."""

import dataclasses
import re

import coremltools as ct
import pytest
from card_packages import blocks_of, card_package, changed, read_json
from tiny_models import TASKS, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from optimum_ane.checkpoints.tokenizer_description import describe_tokenizer
from optimum_ane.hub.card import make_card
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.manifest import TokenizerEntry

LABELS = {0: 'say "no" \\(1 + 1)', 1: "línea\nnueva", 2: "👩‍💻 | `x`"}
FORMS = {
    **{task: ("bert", task, {}, {}) for task in TASKS},
    "no token types": ("roberta", "question-answering", {}, {}),
    "choices without token types": ("mpnet", "multiple-choice", {}, {}),
    "class labels": ("bert", "text-classification", {"id2label": LABELS}, {"class_labels": True}),
    "embeddings": ("bert", "feature-extraction", {}, {"pooling": "mean", "normalize": True}),
    "float32": ("distilbert", "text-classification", {}, {"precision": "float32"}),
    "iOS 15": ("distilbert", "text-classification", {}, {"minimum_deployment_target": "iOS15"}),
    "rows": ("electra", "token-classification", {"id2label": LABELS}, {"batch_size": 3}),
}


@pytest.fixture(scope="module", params=FORMS)
def made(request, tiny_package):
    """The package's directory, its card's Swift and the description in its program."""
    name, task, model, options = FORMS[request.param]
    directory = tiny_package(name, task, model=model, **options)
    swift = blocks_of(make_card([card_package(directory)], repo_id="org/model"))["swift"]
    return directory, swift, ct.utils.load_spec(str(directory / "model.mlpackage")).description


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


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_labels_are_literals_that_say_the_same(tiny_package, task):
    package = changed(card_package(tiny_package("bert", task)), labels=tuple(LABELS.values()))
    line = re.search(r"let labels = (\[.*\])\n", swift_snippet(package))[1]
    literals = re.findall(r'"((?:\\.|[^"\\])*)"', line)
    assert [_read_swift(literal) for literal in literals] == list(LABELS.values())


def _read_swift(literal):
    """What Swift reads a string literal as (The Swift Programming Language, "Strings and Characters")."""
    assert "\n" not in literal
    assert "\\(" not in literal.replace("\\\\", "")
    read = re.sub(r"\\u\{([0-9A-F]+)\}", lambda match: chr(int(match[1], 16)), literal)
    return re.sub(r'\\(["\\])', r"\1", read)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ('a"b\\c', r'"a\"b\\c"'),
        ("\\(x)", r'"\\(x)"'),
        ("\n\t\0", r'"\u{A}\u{9}\u{0}"'),
        ("\ud800", r'"\u{FFFD}"'),
        ("é🎉", '"é🎉"'),
    ],
)
def test_string_literals(text, literal):
    assert swift_string(text) == literal


class TestHeads:
    @pytest.mark.parametrize(
        ("model", "words"),
        [
            ({"problem_type": None}, ["labels[best]", "exp($1 - scores[best])"]),
            ({"problem_type": "multi_label_classification"}, ["1 / (1 + exp(-$1))"]),
            ({"problem_type": "regression"}, ["predictValues", "TextRegressor"]),
        ],
    )
    def test_each_kind_of_answer_is_read_in_its_way(self, tiny_package, model, words):
        package = changed(card_package(tiny_package("bert", "text-classification")), model_config=model)
        swift = swift_snippet(package)
        assert all(word in swift for word in words)

    def test_the_mask_is_the_tokenizers_own(self, tiny_package):
        swift = swift_snippet(card_package(tiny_package("bert", "fill-mask")))
        assert f"let mask = {make_tokenizer().mask_token_id}\n" in swift
        assert 'fill("The film was <mask>.")' in swift


class TestTokenizers:
    def wordpiece(self):
        """`[CLS] first [SEP] second [SEP]`, in the way of BERT."""
        vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")

    def roberta(self):
        """`<s> first </s></s> second </s>`."""
        vocabulary = {word: index for index, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c"])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")

    @pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
    def test_pairs_of_the_snippet_are_the_tokenizers_pairs(self, tiny_package, tmp_path, kind):
        """What the Swift does with ids of single texts, done in Python, against the tokenizer's own pair."""
        tokenizer = getattr(self, kind)()
        tokenizer.save_pretrained(tmp_path)
        entry = describe_tokenizer(tokenizer, tmp_path)
        package = changed(card_package(tiny_package("bert", "question-answering")), text={"tokenizer": entry})
        swift = swift_snippet(package)
        separators = swift.count("tokens.append(tokens.last!)")
        dropped = int(re.search(r"dropFirst\((\d+)\)", swift)[1])
        cut = re.search(r"tokens.prefix\(length - (\d+)\)\) \+ tokens.suffix\((\d+)\)", swift)
        kept, last = map(int, cut.groups())
        for first, second in [("a b", "c"), ("a", "b c a b"), ("c c", "b a")]:
            tokens = tokenizer(first)["input_ids"]
            tokens = tokens + tokens[-1:] * separators
            start = len(tokens)
            tokens = tokens + tokenizer(second)["input_ids"][dropped:]
            pair = tokenizer(first, second)["input_ids"]
            assert tokens == pair
            if kind == "wordpiece":
                types = tokenizer(first, second, return_token_type_ids=True)["token_type_ids"]
                assert [int(index >= start) for index in range(len(tokens))] == types
            short = len(tokens) - 1
            if len(second.split()) > 1:
                expected = tokenizer(first, second, truncation="only_second", max_length=short)["input_ids"]
                assert tokens[: short - kept] + tokens[-last:] == expected

    def test_a_tokenizer_without_special_tokens_keeps_none(self, tiny_package, tmp_path):
        tokenizer = self.wordpiece()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A $B:1", special_tokens=[]
        )
        tokenizer.save_pretrained(tmp_path)
        entry = describe_tokenizer(tokenizer, tmp_path)
        assert (entry.leading, entry.trailing, entry.separators) == (0, 0, 0)
        swift = swift_snippet(
            changed(card_package(tiny_package("bert", "token-classification")), text={"tokenizer": entry})
        )
        assert "return Array(tokens.prefix(length))" in swift
        assert "(0..<tokens.count).map" in swift

    @pytest.mark.parametrize(
        ("tokenizer_class", "model", "stand_in"),
        [
            ("BertTokenizer", "WordPiece", None),
            ("BertTokenizerFast", "WordPiece", None),
            ("RobertaTokenizer", "BPE", None),
            ("XLMRobertaTokenizer", "Unigram", None),
            ("TokenizersBackend", "BPE", None),
            ("TokenizersBackend", "WordPiece", "BertTokenizer"),
            ("MPNetTokenizer", "WordPiece", "BertTokenizer"),
            ("AlbertTokenizer", "Unigram", "XLMRobertaTokenizer"),
            (None, "BPE", "RobertaTokenizer"),
            ("x\n*/ import Evil", "BPE", "RobertaTokenizer"),
        ],
    )
    def test_classes_that_swift_transformers_lacks_get_a_stand_in(
        self, tiny_package, tokenizer_class, model, stand_in
    ):
        entry = TokenizerEntry(tokenizer_class, model, 1, 1, 0, None, None)
        swift = swift_snippet(
            changed(card_package(tiny_package("bert", "text-classification")), text={"tokenizer": entry})
        )
        assert ("import Hub" in swift) == (stand_in is not None)
        assert ("AutoTokenizer.from(modelFolder: folder)" in swift) == (stand_in is None)
        assert re.findall(r'Config\("(\w+)"\)', swift) == ([stand_in] if stand_in else [])
        assert "import Evil" not in swift.splitlines()

    def test_one_that_it_cannot_read_is_said_so(self, tiny_package):
        card = make_card([card_package(tiny_package("bert", "text-classification"))], repo_id=None)
        assert "does not read this package's kind of tokenizer" in card

    def test_a_package_without_one_is_said_so(self, tiny_package):
        package = card_package(tiny_package("bert", "fill-mask", tokenizer=None))
        assert package.manifest.tokenizer is None
        card = make_card([package], repo_id=None)
        assert "The package holds no tokenizer" in card
        assert "None" not in card


def test_the_systems_that_it_needs_are_named(tiny_package):
    package = card_package(tiny_package("bert", "text-classification"))
    assert "This needs iOS 16 or macOS 13" in make_card([package], repo_id=None)
    later = make_card([changed(package, form={"minimum_deployment_target": "macOS15"})], repo_id=None)
    assert "iOS 18 and macOS 15 for the package" in later


@pytest.mark.parametrize(
    ("units", "swift"),
    [("cpu_and_ne", ".cpuAndNeuralEngine"), ("all", ".all"), ("cpu_and_gpu", ".cpuAndGPU"), ("cpu_only", ".cpuOnly")],
)
def test_compute_units_are_the_packages_own(tiny_package, units, swift):
    package = card_package(tiny_package("bert", "text-classification"))
    program = dataclasses.replace(package.manifest.programs[0], compute_units=units)
    package = changed(package, programs=(program,))
    assert f"configuration.computeUnits = {swift}\n" in swift_snippet(package)
