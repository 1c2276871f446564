import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from seqeval.metrics import f1_score
from stand_ins import TokenLookup
from tiny_models import make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from optimum_ane.errors import CheckpointError, DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.token_classification import TaggedWords, TokenClassification

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORDS = {"the": "O", "film": "B-PER", "plot": "I-PER", "story": "B-LOC", "fine": "I-LOC"}


def evaluator(names=NAMES):
    return TokenClassification(SimpleNamespace(id2label=dict(enumerate(names))))


def model(names=NAMES, **tags):
    """Tags each word of `WORDS` as it stands there, or as given here; all else as O."""
    vocabulary = make_tokenizer().get_vocab()
    table = np.zeros((len(vocabulary), len(names)))
    table[:, 0] = 1
    for word, tag in (WORDS | tags).items():
        table[vocabulary[word]] = 3.0 * (np.arange(len(names)) == names.index(tag))
    return TokenLookup(table)


def tagged(*rows, config="seqeval", names=NAMES):
    pairs = [[entry.rsplit("/", 1) for entry in row.split()] for row in rows]
    words, tags = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
    return TaggedWords("dev", config, "by name", words, tags, names)


def run(data, package, reference=None, sequence_length=16, tokenizer=None, names=NAMES):
    return evaluator(names).compare(
        reference, package, tokenizer or make_tokenizer(), data, sequence_length=sequence_length, runtime="portable"
    )


def test_by_hand():
    data = tagged("the/O film/B-PER plot/I-PER", "story/B-LOC film/B-PER", "the/O")
    report = run(data, model(plot="O"), model())
    assert report.original.metrics == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    # Found: PER of one word, which is wrong, LOC and PER; there are three.
    expected = {"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 5 / 6}
    assert report.package.metrics == pytest.approx(expected)
    assert (report.primary_metric, report.rows, report.unit, report.package.right) == ("f1", 3, "words", None)
    assert report.counts == {"words": 6, "entities": 3}
    assert report.agreement == pytest.approx(5 / 6)
    assert report.drop == pytest.approx(100 / 3)
    low, high = report.drop_interval
    assert low == 0.0  # a resample without the first row
    assert high == pytest.approx(100.0)  # the first row three times, or with rows that hold no entity
    # One word of six is wrong: two of its five numbers are 3 off, one of them 3 less and one 3 more.
    assert report.psnr == pytest.approx(20 * math.log10(3 / math.sqrt(2 * 3**2 / 30)))


def test_psnr_is_over_the_words_alone():
    """Special tokens and padding get scores too, which nobody reads."""
    package = model()
    package.table[:3] += 100
    report = run(tagged("film/B-PER", "film/B-PER plot/I-PER the/O"), package, model())
    assert report.psnr == math.inf


def test_plain_tags_are_scored_by_accuracy():
    names = ("NOUN", "DET", "ADJ")
    data = tagged("the/DET film/NOUN", "fine/ADJ story/NOUN plot/NOUN", config="accuracy", names=names)
    tags = {"the": "DET", "film": "NOUN", "plot": "ADJ", "story": "NOUN", "fine": "ADJ"}
    report = run(data, model(names, **tags), model(names, **tags | {"plot": "NOUN"}), names=names)
    assert (report.original.metrics, report.package.metrics) == ({"accuracy": 1.0}, {"accuracy": 0.8})
    assert report.counts == {"words": 5}
    # Rows are drawn: the second twice has 2 of 6 wrong, the first twice none.
    assert report.drop_interval == pytest.approx((0.0, 100 / 3))


def test_words_beyond_the_length_are_scored_for_neither():
    data = tagged("film/B-PER the/O the/O plot/B-LOC", "film/B-PER")
    report = run(data, model(), model(), sequence_length=5)
    assert report.truncated == 1
    assert report.counts == {"words": 4, "entities": 2}
    assert report.package.metrics["f1"] == 1.0
    with pytest.raises(DatasetError, match="the package's length cuts all entities off"):
        run(tagged("the/O the/O the/O film/B-PER"), model(), sequence_length=4)


def test_left_padding_changes_nothing():
    data = tagged("film/B-PER", "the/O film/B-PER plot/I-PER story/B-LOC", "fine/O the/O")
    reports = [
        run(data, model(), model(plot="O"), tokenizer=tokenizer)
        for tokenizer in (make_tokenizer(), make_tokenizer(padding_side="left"))
    ]
    assert reports[0].package.metrics == reports[1].package.metrics
    assert reports[0].psnr == pytest.approx(reports[1].psnr)
    assert reports[0].package.metrics["f1"] == pytest.approx(6 / 7)


def test_scores_and_interval_on_random_data_are_seqevals():
    """Hundreds of rows: the metric is seqeval's, and the middle of the interval lies near the drop."""
    random = np.random.default_rng(0)
    words = list(WORDS)
    rows = [[random.choice(words) for _ in range(random.integers(1, 12))] for _ in range(300)]
    gold = [[random.choice([WORDS[word], random.choice(NAMES)], p=[0.8, 0.2]) for word in row] for row in rows]
    data = TaggedWords("dev", "seqeval", "by name", rows, gold, NAMES)
    package = model(fine="O")
    report = run(data, package, model())
    predicted = [[(WORDS | {"fine": "O"})[word] for word in row] for row in rows]
    assert report.package.metrics["f1"] == pytest.approx(f1_score(gold, predicted))
    drop = 100 * (f1_score(gold, [[WORDS[word] for word in row] for row in rows]) - f1_score(gold, predicted))
    assert report.drop == pytest.approx(drop)
    low, high = report.drop_interval
    assert low < drop < high
    assert 1 < high - low < 10


# Which token a word begins with


def _pieces(**settings):
    """Word pieces as BERT has them, without its clean-up."""
    vocabulary = ["<unk>", "<pad>", "<s>", "</s>", "un", "##do", "##ing", "film", "##s", "s", "'", ",", "do"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _wrap(tokenizer)


def _bytes(add_prefix_space):
    """Byte-level pieces as RoBERTa has them: a word in a text differs from one at its beginning."""
    pieces = ["un", "do", "Ġun", "Ġdo", "Ġfilm", "film", "ing", "s", "'", ",", "Ġ"]
    letters = sorted(set("undofilmingsĠ',UF") | set("".join(pieces)))
    vocabulary = {
        piece: i for i, piece in enumerate(["<unk>", "<pad>", "<s>", "</s>", *dict.fromkeys([*letters, *pieces])])
    }
    merges = [("u", "n"), ("d", "o"), ("Ġ", "un"), ("Ġ", "do"), ("f", "i"), ("fi", "l"), ("fil", "m"), ("Ġ", "film"),
              ("i", "n"), ("in", "g")]  # fmt: skip
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer)


def _sentence_pieces():
    pieces = ["▁un", "do", "ing", "▁film", "s", "'", ","]
    vocabulary = [(piece, 0.0) for piece in ("<unk>", "<pad>", "<s>", "</s>")]
    vocabulary += [("▁", -3.0), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _wrap(tokenizer)


def _wrap(tokenizer):
    ids = {name: tokenizer.token_to_id(name) for name in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize(
    "tokenizer", [_pieces(), _bytes(False), _bytes(True), _sentence_pieces()],
    ids=["word pieces", "bytes", "bytes with a space", "sentence pieces"],
)  # fmt: skip
def test_the_first_token_of_each_word(tokenizer):
    words = ["undoing", "film's", ",", "films", "\u200b", "do"]
    data = TaggedWords("dev", "seqeval", "by name", [words], [["O"] * 6], NAMES)
    [feature] = evaluator().encode(tokenizer, data, [0], 40).features
    ids = feature.inputs["input_ids"]
    found = [tokenizer.convert_ids_to_tokens(ids[position]) for position in feature.positions]
    starts = dict(zip(feature.words.tolist(), (piece.strip("Ġ▁") for piece in found), strict=True))
    assert starts[0] == "un"
    assert starts[1] == "film"
    assert starts[3] == "film"
    assert starts[2] in (",", "")  # sentence pieces: the space before is a piece of its own
    assert starts[5] in ("do", "")
    assert list(feature.positions) == sorted(feature.positions)
    assert len(set(feature.positions)) == len(feature.positions)
    # The tokens between two first tokens are the rest of the former word.
    assert feature.positions[1] - feature.positions[0] > 1


def test_words_are_tokenised_as_within_a_text():
    """Given word by word, a byte-level tokenizer would take each for the beginning of a text."""
    tokenizer = _bytes(False)
    data = TaggedWords("dev", "seqeval", "by name", [["do", "film"]], [["O"] * 2], NAMES)
    [feature] = evaluator().encode(tokenizer, data, [0], 40).features
    assert tokenizer.convert_ids_to_tokens(feature.inputs["input_ids"]) == ["<s>", "do", "Ġfilm", "</s>"]


def test_a_word_that_the_tokenizer_drops_is_left_out():
    tokenizer = _pieces()
    data = TaggedWords("dev", "seqeval", "by name", [["do", "\u200b\x01", "film"]], [["O", "B-PER", "I-PER"]], NAMES)
    [feature] = evaluator().encode(tokenizer, data, [0], 40).features
    assert feature.words.tolist() == [0, 2]


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(CheckpointError, match=r"a tokenizer\.json is needed"):
        evaluator().encode(SimpleNamespace(is_fast=False), tagged("film/O"), [0], 16)


# The dataset


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "dev.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return DatasetSpec(str(path))

    return write


def test_lists_and_texts_of_words(write, tmp_path):
    lists = evaluator().load(write({"id": 1, "tokens": ["the", "film"], "ner_tags": ["O", "B-PER"], "tags": [1]}))
    assert (lists.words, lists.tags) == ([["the", "film"]], [["O", "B-PER"]])
    assert (lists.metric_config, lists.label_mapping) == ("seqeval", "by name")
    (tmp_path / "dev.tsv").write_text("words\ttags\nthe film\t0 1\n")
    texts = evaluator().load(DatasetSpec(str(tmp_path / "dev.tsv")))
    assert (texts.words, texts.tags, texts.label_mapping) == ([["the", "film"]], [["O", "B-PER"]], "by id")


def test_parquet_with_named_classes(tmp_path):
    import datasets

    classes = ["B-LOC", "O", "B-PER"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=classes)),
        }
    )
    rows = {"tokens": [["the", "film"], []], "ner_tags": [[1, 2], []]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "dev.parquet")
    data = evaluator().load(DatasetSpec(str(tmp_path / "dev.parquet")))
    assert (data.tags, data.label_mapping) == ([["O", "B-PER"], []], "by name")


def test_from_the_hub(monkeypatch):
    import datasets

    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "ner": datasets.List(datasets.ClassLabel(names=["O", "B-LOC"])),
        }
    )
    table = datasets.Dataset.from_dict({"words": [["story"]], "ner": [[1]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None, *, split=None: table)
    assert evaluator().load(DatasetSpec("someone/tagged")).tags == [["B-LOC"]]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"tokens": ["a"], "tags": []}, "column tags: 0 tags for 1 words"),
        ({"tokens": None, "tags": []}, "column tokens: a list of words is expected, found nothing"),
        ({"tokens": 5, "tags": []}, "column tokens: a list of words is expected, found int"),
        ({"tokens": [5], "tags": ["O"]}, "column tokens: a text is expected, found int"),
        ({"tokens": [["a"]], "tags": ["O"]}, "column tokens: a text is expected, found list"),
        ({"tokens": ["\0"], "tags": ["O"]}, "column tokens: there is a NUL character"),
        ({"tokens": ["a"], "tags": None}, "column tags: a list of tags is expected, found nothing"),
        ({"tokens": ["a"], "tags": {"a": 1}}, "column tags: a list of tags is expected, found dict"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "column tags: the model does not know the tag 'B-ORG'"),
        ({"tokens": ["a"], "tags": [[[[]]]]}, "column tags: the model does not know the tag"),
        ({"tokens": ["a"] * 150_000, "tags": ["O"] * 150_000}, "column tokens: the list has 150,000 entries"),
        ({"tokens": ["a" * 60_000, "a" * 60_000], "tags": ["O", "O"]}, "column tokens: the words have 120,000"),
    ],
)
def test_flawed_rows(write, row, what):
    with pytest.raises(DatasetError, match=f"row 2, {what}") as caught:
        evaluator().load(write({"tokens": ["film"], "tags": ["B-PER"]}, row))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_nothing_to_score(write):
    with pytest.raises(DatasetError, match="no word is part of an entity, so there is no F1"):
        evaluator().load(write({"tokens": ["film"], "tags": ["O"]}))
    with pytest.raises(DatasetError, match="the rows have no words"):
        evaluator().load(write({"tokens": [], "tags": []}))
    data = TaggedWords("dev", "accuracy", "by id", [["\u200b"]], [["X"]], ("X",))
    with pytest.raises(DatasetError, match="no row gives anything to score"):
        run(data, model(), tokenizer=_pieces(), names=("X", "Y"))


def test_parquet_of_endless_lists_and_words(tmp_path):
    """Kilobytes on disk that stand for gigabytes are refused before they are Python objects."""
    path = tmp_path / "dev.parquet"
    many = pyarrow.array([["a"] * 200_000], pyarrow.list_(pyarrow.string()))
    pyarrow.parquet.write_table(pyarrow.table({"tokens": many, "tags": many}), path, compression="zstd")
    with pytest.raises(DatasetError, match="row 1, column tokens: the list has 200,000 entries"):
        evaluator().load(DatasetSpec(str(path)))
    long = pyarrow.array([["a"], ["a", "x" * 1_000_000], ["a"]])
    pyarrow.parquet.write_table(pyarrow.table({"tokens": long, "tags": long}), path, compression="zstd")
    with pytest.raises(DatasetError, match="row 2, column tokens: the text has 1,000,000 bytes"):
        evaluator().load(DatasetSpec(str(path)))


def test_options(write):
    spec = write({"tokens": ["film"], "tags": ["B-PER"]})
    for field in ("text_pair_column", "choices_columns"):
        with pytest.raises(DatasetError, match="says nothing to token-classification; leave it out"):
            evaluator().load(DatasetSpec(spec.dataset, **{field: "tags"}))
    with pytest.raises(DatasetError, match="a file has no configs"):
        evaluator().load(DatasetSpec(spec.dataset, "conll2003"))
    with pytest.raises(DatasetError, match="no words column is recognised among: a, tags; name it with text_column"):
        evaluator().load(write({"a": ["film"], "tags": ["B-PER"]}))
