"""The Swift of a card, as far as its `ane_config.json` alone decides it; test_card_snippets.py has whole packages."""

import dataclasses
import re

import pytest
from card_packages import changed, plain_package
from tiny_models import make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from optimum_ane.checkpoints.tokenizer_description import describe_tokenizer
from optimum_ane.hub.card import make_card
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.manifest import FunctionEntry, ImageEntry, ProgramEntry, TensorEntry, TokenizerEntry
from optimum_ane.package.normalization import Normalization

LABELS = ('say "no" \\(1 + 1)', "línea\nnueva", "👩‍💻 | `x`")


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_labels_are_literals_that_say_the_same(task):
    package = changed(plain_package(task), labels=LABELS)
    line = re.search(r"let labels = (\[.*\])\n", swift_snippet(package))[1]
    literals = re.findall(r'"((?:\\.|[^"\\])*)"', line)
    assert [_read_swift(literal) for literal in literals] == list(LABELS)


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
    def test_each_kind_of_answer_is_read_in_its_way(self, model, words):
        package = changed(plain_package("text-classification"), model_config=model)
        swift = swift_snippet(package)
        assert all(word in swift for word in words)

    def test_the_mask_is_the_tokenizers_own(self):
        swift = swift_snippet(plain_package("fill-mask"))
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
    def test_pairs_of_the_snippet_are_the_tokenizers_pairs(self, tmp_path, kind):
        """What the Swift does with ids of single texts, done in Python, against the tokenizer's own pair."""
        tokenizer = getattr(self, kind)()
        tokenizer.save_pretrained(tmp_path)
        entry = describe_tokenizer(tokenizer, tmp_path)
        package = changed(plain_package("question-answering"), text={"tokenizer": entry})
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

    def test_a_tokenizer_without_special_tokens_keeps_none(self, tmp_path):
        tokenizer = self.wordpiece()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A $B:1", special_tokens=[]
        )
        tokenizer.save_pretrained(tmp_path)
        entry = describe_tokenizer(tokenizer, tmp_path)
        assert (entry.leading, entry.trailing, entry.separators) == (0, 0, 0)
        swift = swift_snippet(changed(plain_package("token-classification"), text={"tokenizer": entry}))
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
    def test_classes_that_swift_transformers_lacks_get_a_stand_in(self, tokenizer_class, model, stand_in):
        entry = TokenizerEntry(tokenizer_class, model, 1, 1, 0, None, None)
        swift = swift_snippet(changed(plain_package("text-classification"), text={"tokenizer": entry}))
        assert ("import Hub" in swift) == (stand_in is not None)
        assert ("AutoTokenizer.from(modelFolder: folder)" in swift) == (stand_in is None)
        assert re.findall(r'Config\("(\w+)"\)', swift) == ([stand_in] if stand_in else [])
        assert "import Evil" not in swift.splitlines()

    def test_one_that_it_cannot_read_is_said_so(self):
        card = make_card([plain_package("text-classification")], repo_id=None)
        assert "does not read this package's kind of tokenizer" in card

    def test_a_package_without_one_is_said_so(self):
        files = {"config.json": "0" * 64}
        package = changed(plain_package("fill-mask"), text={"tokenizer": None}, files=files)
        card = make_card([package], repo_id=None)
        assert "The package holds no tokenizer" in card
        assert "None" not in card


def test_the_systems_that_it_needs_are_named():
    package = plain_package("text-classification")
    assert "This needs iOS 16 or macOS 13" in make_card([package], repo_id=None)
    later = make_card([changed(package, form={"minimum_deployment_target": "macOS15"})], repo_id=None)
    assert "iOS 18 and macOS 15 for the package" in later


@pytest.mark.parametrize(
    ("units", "swift"),
    [("cpu_and_ne", ".cpuAndNeuralEngine"), ("all", ".all"), ("cpu_and_gpu", ".cpuAndGPU"), ("cpu_only", ".cpuOnly")],
)
def test_compute_units_are_the_packages_own(units, swift):
    package = plain_package("text-classification")
    program = dataclasses.replace(package.manifest.programs[0], compute_units=units)
    package = changed(package, programs=(program,))
    assert f"configuration.computeUnits = {swift}\n" in swift_snippet(package)


class TestImages:
    """Of packages that take images, whose Swift goes through Vision."""

    SHAPES = {
        "image-classification": {"logits": (1, 2)},
        "image-segmentation": {"logits": (1, 2, 10, 18)},
        "object-detection": {"logits": (1, 5, 3), "pred_boxes": (1, 5, 4)},
        "depth-estimation": {"predicted_depth": (1, 40, 72)},
        "feature-extraction": {"last_hidden_state": (1, 46, 32)},
    }

    NORMALIZATION = Normalization("RGB", (1.0,) * 3, (0.0,) * 3)

    def package(self, task, normalization=NORMALIZATION, fit="crop", **form):
        package = plain_package("text-classification")
        package = dataclasses.replace(package, manifest=dataclasses.replace(package.manifest, text=None))
        outputs = tuple(TensorEntry(name, shape, "float16") for name, shape in self.SHAPES[task].items())
        pixels = TensorEntry("pixel_values", (1, 3, 40, 72), "float32")
        return changed(
            package,
            form={"task": task, "image_size": (40, 72), **form},
            programs=(ProgramEntry("model", (FunctionEntry("main", (pixels,), outputs),)),),
            image=ImageEntry(40, 72, 3, normalization=normalization, fit=fit),
            labels=("bad", "good"),
        )

    @pytest.mark.parametrize("task", SHAPES)
    def test_an_image_goes_through_vision_whatever_is_made_of_it(self, task):
        swift = swift_snippet(self.package(task))
        assert "_ image: CGImage" in swift
        assert "VNCoreMLRequest(model: model)" in swift
        assert "40 × 72 pixels of the image, as much of its middle as they hold" in swift
        assert "imageCropAndScaleOption = .centerCrop" in swift
        assert "[Float]) throws" not in swift  # no numbers go in
        assert "predict(values)" not in swift
        for name in self.SHAPES[task]:
            assert f'row("{name}", of: ' in swift
        for opening, closing in ("{}", "()", "[]"):
            assert swift.count(opening) == swift.count(closing)
        assert re.search(r"print\(try model\.\w+\(image\)\)", swift)

    @pytest.mark.parametrize("task", SHAPES)
    def test_tensors_go_in_as_numbers(self, task):
        swift = swift_snippet(self.package(task, normalization=None))
        assert "_ values: [Float]" in swift
        assert "Vision" not in swift

    @pytest.mark.parametrize(("fit", "option"), [("fill", ".scaleFill"), ("pad", ".scaleFit"), ("", ".scaleFill")])
    def test_vision_fits_images_as_the_processor_does(self, fit, option):
        assert f"imageCropAndScaleOption = {option}\n" in swift_snippet(self.package("depth-estimation", fit=fit))

    def test_of_a_map_of_classes_nothing_is_left_to_do(self):
        swift = swift_snippet(self.package("image-segmentation", postprocess=True))
        assert 'predict(image)["class_map"]!' in swift
        assert "let labels = " in swift

    def test_a_program_that_gives_an_image_has_observations_of_pixel_buffers(self):
        swift = swift_snippet(self.package("depth-estimation", postprocess=True))
        assert "VNPixelBufferObservation" in swift
        assert "VNCoreMLFeatureValueObservation" not in swift
