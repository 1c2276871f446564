import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from stand_ins import load_examples

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec

SENTIMENT = {0: "NEGATIVE", 1: "POSITIVE"}
SINGLE = "single_label_classification"


def load(path, id2label=SENTIMENT, problem_type=SINGLE, **options):
    return load_examples(DatasetSpec(str(path), **options), id2label=id2label, problem_type=problem_type)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path, **options):
    """The message of the error, checked to be one line that begins with the file's name."""
    with pytest.raises(DatasetError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


# What is read


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_tsv_of_two_columns_without_header(write, end):
    examples = load(write("dev.tsv", f'a "gripping film\t1\r\nits , dull"\t0{end}'))
    assert examples.texts == ['a "gripping film', 'its , dull"']  # no quoting, as in GLUE's files
    assert examples.text_pairs is None
    assert examples.labels.dtype == np.int64
    assert examples.labels.tolist() == [1, 0]
    assert (examples.metric_config, examples.label_mapping) == ("accuracy", "by id")


def test_shared_sst2(shared):
    examples = load(shared / "data/sst2/dev.tsv")
    assert len(examples) == 872
    assert int(examples.labels.sum()) == 444


def test_csv_has_standard_quoting(write):
    path = write("dev.csv", 'text,label\n"dull, and ""long""\nall through",negative\nfine,Positive\n')
    examples = load(path)
    assert examples.texts == ['dull, and "long"\nall through', "fine"]
    assert (examples.labels.tolist(), examples.label_mapping) == ([0, 1], "by name")


@pytest.mark.parametrize(
    ("header", "texts", "pairs", "options"),
    [
        ("sentence,idx,label", ["a", "d"], None, {}),
        ("label,sentence,stars", ["b", "e"], None, {"label_column": "stars"}),
        ("sentence1,sentence2,label", ["a", "d"], ["b", "e"], {}),
        ("hypothesis,premise,gold_label", ["b", "e"], ["a", "d"], {}),
        ("Question,Sentence,Label", ["a", "d"], ["b", "e"], {}),
        ("x,y,z", ["b", "e"], ["a", "d"], {"text_column": "y", "text_pair_column": "x", "label_column": "z"}),
        ("x,y,label", ["b", "e"], None, {"text_column": "y"}),
        ("x,y,label", ["b", "e"], ["a", "d"], {"text_column": "1", "text_pair_column": "0"}),
        ("sentence1,sentence2,label", ["b", "e"], None, {"text_column": "sentence2"}),
    ],
)
def test_columns_of_a_header(write, header, texts, pairs, options):
    examples = load(write("dev.csv", f"{header}\na,b,1\nd,e,0\n"), **options)
    assert (examples.texts, examples.text_pairs) == (texts, pairs)
    assert examples.labels.tolist() == [1, 0]


def test_two_columns_with_one_known_name(write):
    assert load(write("a.csv", "label,opinion\n1,fine\n")).texts == ["fine"]
    assert load(write("b.csv", "opinion,stars\nfine,1\n"), text_column="opinion").labels.tolist() == [1]


def test_columns_by_number_without_header(write):
    path = write("dev.tsv", "1\tfirst\tsecond\n0\tthird\tfourth\n")
    examples = load(path, text_column="1", text_pair_column="2", label_column="0")
    assert (examples.texts, examples.text_pairs) == (["first", "third"], ["second", "fourth"])
    assert examples.labels.tolist() == [1, 0]
    assert load(write("two.tsv", "1\tfine\n"), label_column="0").texts == ["fine"]


def test_a_text_that_reads_like_a_column_name_is_no_header(write):
    assert load(write("dev.tsv", "label\t1\nscore\t0\n")).texts == ["label", "score"]


def test_jsonl_and_its_options(write):
    rows = [{"review": "fine", "id": 7, "stars": 1}, {"review": "", "id": 8, "stars": False}]
    path = write("dev.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    examples = load(path, label_column="stars")
    assert (examples.texts, examples.labels.tolist()) == (["fine", ""], [1, 0])


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int32", "string")])
def test_parquet(tmp_path, kind):
    texts = pyarrow.array([f"text {index}" for index in range(600)]).cast(kind)
    table = pyarrow.table({"idx": list(range(600)), "text": texts, "label": [index % 2 for index in range(600)]})
    pyarrow.parquet.write_table(table, tmp_path / "dev.parquet", row_group_size=100)
    examples = load(tmp_path / "dev.parquet")
    assert examples.texts == [f"text {index}" for index in range(600)]
    assert examples.labels.tolist() == [0, 1] * 300


def test_lists_in_parquet_and_jsonl(tmp_path, write):
    """Several labels a row."""
    rows = {"text": ["a", "b", "c"], "label": [["POSITIVE"], [], ["NEGATIVE", "POSITIVE"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "dev.parquet")
    lines = [json.dumps(dict(zip(rows, values, strict=True))) for values in zip(*rows.values(), strict=True)]
    for path in (tmp_path / "dev.parquet", write("dev.jsonl", "\n".join(lines))):
        assert load(path, problem_type="multi_label_classification").labels.tolist() == [[0, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("values", [[[0, 1], [1], []], [["POSITIVE", "NEGATIVE"], ["POSITIVE"], []]])
@pytest.mark.parametrize("rows_of_group", [1, 7, 1000])
def test_lists_of_labels_in_several_row_groups(tmp_path, values, rows_of_group):
    table = pyarrow.table({"text": ["a", "b", "c"] * 200, "label": values * 200})
    pyarrow.parquet.write_table(table, tmp_path / "dev.parquet", row_group_size=rows_of_group)
    examples = load(tmp_path / "dev.parquet", problem_type="multi_label_classification")
    assert examples.labels.tolist() == [[1, 1], [0, 1], [0, 0]] * 200


def test_two_lists_of_ids(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [[0, 1], [1]]}), tmp_path / "d.parquet")
    examples = load(tmp_path / "d.parquet", problem_type="multi_label_classification")
    assert examples.labels.tolist() == [[1, 1], [0, 1]]
    message = refusal(tmp_path / "d.parquet")
    assert "row 1, column label: there is a list of labels, [0, 1], and the model gives one label a row" in message
    assert 'say "problem_type": "multi_label_classification" in its config.json' in message


def test_max_samples_takes_the_first_rows_and_reads_no_further(write):
    path = write("dev.tsv", b"a\t1\nb\t0\nc\xff\t1\n")
    assert load(path, max_samples=2).texts == ["a", "b"]


def test_byte_order_mark_and_rare_line_ends_inside_a_text(write):
    assert load(write("a.tsv", b"\xef\xbb\xbffine\t1\n")).texts == ["fine"]
    text = "one\u2028two\x85three\x0bfour"
    assert load(write("b.tsv", f"{text}\t1\n")).texts == [text]


def test_a_task_of_glue_lends_its_metric_to_a_file(write):
    path = write("dev.tsv", "sentence1\tsentence2\tlabel\na\tb\t1\n")
    assert load(path, config="mrpc").metric_config == "mrpc"


# What is refused


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "dev.tsv") == ": there is no such file; check the path"


def test_unsupported_suffix(write):
    assert "files of kind '.text' are not read; use one of .tsv, .csv, .jsonl" in refusal(write("dev.text", "a\t1\n"))


def test_directory(tmp_path):
    assert "is a directory; name a file inside it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["dev.tsv", "dev.csv", "dev.jsonl", "dev.parquet"])
def test_empty_file(write, name):
    assert refusal(write(name, "")) == ": the file is empty; a row holds one example"


def test_nothing_but_blank_lines_or_a_header(write):
    assert "the file has no rows" in refusal(write("a.tsv", "\n\n"))
    assert "the file has no rows" in refusal(write("a.jsonl", "\n\n"))
    assert "there are column names and no rows" in refusal(write("b.tsv", "sentence\tlabel\n"))


def test_missing_column(write):
    path = write("dev.csv", "review,stars\nfine,1\n")
    assert refusal(path, text_column="text", label_column="stars") == (
        ", column 'text': there is no column 'text'; its columns are: review, stars"
    )
    assert "its columns are: 0, 1" in refusal(write("dev.tsv", "fine\t1\n"), label_column="5")
    message = refusal(write("dev.jsonl", '{"a": 1, "b": 2, "c": 3}'))
    assert message == ": no text column is recognised among: a, b, c; name it with text_column"


def test_missing_key_of_a_later_row(write):
    path = write("dev.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n')
    assert refusal(path) == ", row 2, column 'label': the key is missing; the row has: text; add it to the row"


def test_columns_that_cannot_be_told(write):
    message = refusal(write("dev.tsv", "a\tb\t1\n"))
    assert message.startswith(", row 1: 3 column(s) and no header that is recognised; say which is which")
    assert ", row 1: 1 column(s)" in refusal(write("one.tsv", "a\nb\n"))
    assert "without text_column" in refusal(write("dev.tsv", "a\tb\t1\n"), text_pair_column="1")
    assert "one column serves twice" in refusal(write("two.tsv", "a\t1\n"), text_column="1", label_column="1")


def test_unknown_label(write):
    message = refusal(write("dev.tsv", "fine\t1\nso so\t2\n"))
    assert message == (
        ", row 2, column 1: the model does not know the label '2'; it knows NEGATIVE (0), POSITIVE (1); "
        "mend the row, or name another column with label_column"
    )
    message = refusal(write("dev.csv", "text,label\nfine,positive\nso so,neutral\n"))
    assert message.startswith(", row 3, column label: the model does not know the label 'neutral'")
    assert "the label None" in refusal(write("dev.jsonl", '{"text": "a", "label": null}'))


def test_header_of_unknown_names(write):
    message = refusal(write("dev.tsv", "opinion\tstars\nfine\t1\n"))
    assert message.startswith(", row 1, column 1: the model does not know the label 'stars'")
    assert message.endswith("if this row is a header, name its columns with text_column and label_column")


def test_broken_encoding(write):
    message = refusal(write("dev.tsv", b"fine\t1\ncaf\xe9\t0\n"))
    assert message == ", row 2, column 0: byte 0xe9 at byte offset 10 of the file is not UTF-8; save the file as UTF-8"
    message = refusal(write("dev.csv", b'"a, b",1\n"x, y",\xff\n'))
    assert message.startswith(", row 2, column 1: byte 0xff at byte offset 16 of the file is not UTF-8")
    assert "row 1" in refusal(write("dev.jsonl", '{"text": "é"}'.encode("latin-1")))
    assert "byte offset 0 of the file" in refusal(write("utf16.tsv", "fine\t1\n".encode("utf-16")))


def test_nul(write):
    message = refusal(write("dev.tsv", b"fine\t1\nfi\x00ne\t0\n"))
    assert message.startswith(", row 2, column 0: there is a NUL byte at byte offset 9 of the file")
    message = refusal(write("dev.jsonl", r'{"text": "a\u0000", "label": 1}'))
    assert message.startswith(", row 1, column text: there is a NUL character at position 1")


def test_line_of_a_million_characters(write):
    long = "x" * 1_000_000
    for name, content in (
        ("dev.tsv", f"fine\t1\n{long}\t0\n"),
        ("dev.csv", f"fine,1\n{long},0\n"),
        ("dev.csv", f'fine,1\n"{long}",0\n'),
    ):
        assert refusal(write(name, content)).startswith(", row 2, column 0: ")
    message = refusal(write("dev.tsv", f"fine\t1\n{long}\t0\n"))
    assert "the text has 1,000,000 characters, the limit is 100,000" in message
    row = json.dumps({"text": long, "label": 1})
    assert refusal(write("dev.jsonl", row)).startswith(", row 1, column text: the text has 1,000,000")
    # a label as long is quoted in part
    assert len(refusal(write("dev.tsv", f"fine\t{long}\n"))) < 300


def test_line_without_end(write):
    long = "x" * 5_000_000
    message = refusal(write("dev.tsv", f"fine\t1\nfine\t{long}"))
    assert message.startswith(", row 2, column 1: the row is longer than 4,194,304 bytes")
    short = "y" * 50_000
    message = refusal(write("dev.csv", "fine,1\n" + f'"{short}\n",' * 200))
    assert message.startswith(", row 2: the record is longer than")


def test_parquet_that_expands_without_end(tmp_path):
    """A few kilobytes on disk that stand for the same huge text in many rows are refused in little memory."""
    codes = pyarrow.array([0] * 100_000, pyarrow.int32())
    texts = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(["x" * 2_000_000]))
    table = pyarrow.table({"text": texts, "label": [1] * 100_000})
    pyarrow.parquet.write_table(table, tmp_path / "dev.parquet", compression="zstd")
    assert refusal(tmp_path / "dev.parquet").startswith(", row 1, column text: the text has 2,000,000 bytes")


def test_columns_that_come_and_go(write):
    message = refusal(write("dev.tsv", "fine\t1\nfine\tagain\t1\n"))
    assert message.startswith(", row 2, column 2: 3 columns, the first row has 2; remove the surplus tab")
    assert ", row 2, column 1: 1 columns" in refusal(write("dev.csv", "fine,1\nfine\n"))


def test_csv_quotes(write):
    assert ", row 2: not valid CSV" in refusal(write("dev.csv", 'fine,1\n"open,1\nmore,0\n'))
    assert ", row 2: not valid CSV" in refusal(write("dev.csv", 'fine,1\n"a" b,0\n'))


def test_malformed_json(write):
    good = '{"text": "a", "label": 1}\n'
    message = refusal(write("dev.jsonl", good + '{"text": "b", label: 0}\n'))
    assert message.startswith(", row 2: not valid JSON at character 15 of the line")
    assert ", row 2: a JSON list, not an object" in refusal(write("dev.jsonl", good + "[1]\n"))
    assert ", row 2: not readable JSON (RecursionError)" in refusal(write("dev.jsonl", good + "[" * 200_000))
    assert ", row 2: not readable JSON" in refusal(write("dev.jsonl", good + "9" * 5000))
    assert "half a surrogate pair at position 0" in refusal(write("dev.jsonl", r'{"text": "\ud800", "label": 1}'))
    assert "a text is expected, found int" in refusal(write("dev.jsonl", '{"text": 3, "label": 1}'))


def test_values_that_are_nested_without_end(write):
    deep = '{"text": "a", "label": ' + "[" * 900 + "]" * 900 + "}"
    message = refusal(write("dev.jsonl", '{"text": "a", "label": 1}\n' + deep))
    assert message.startswith(", row 2, column label: the model does not know the label [[[")
    assert len(message) < 300


def test_parquet_of_more_values_than_can_be_held(tmp_path, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 50, "label": [[1] * 9] * 50}), tmp_path / "dev.parquet")
    monkeypatch.setattr("optimum_ane.evaluation.files._PARQUET_GROUP_VALUES", 400)
    assert refusal(tmp_path / "dev.parquet") == (
        ", column label.list.element: row group 0 holds 450 values; write it with row groups below 400 values"
    )


def test_parquet_that_is_none(tmp_path, write):
    assert "not a readable Parquet file" in refusal(write("dev.parquet", "PAR1 nothing PAR1"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 999, "label": [1] * 999}), tmp_path / "b.parquet")
    whole = bytearray((tmp_path / "b.parquet").read_bytes())
    assert "not a readable Parquet file" in refusal(write("cut.parquet", bytes(whole[:-20])))
    whole[8:40] = b"\xff" * 32
    assert "row 1: not a readable Parquet file" in refusal(write("flipped.parquet", bytes(whole)))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "label": [1, 1]}), tmp_path / "c.parquet")
    assert "row 2, column text: a text is expected, found nothing" in refusal(tmp_path / "c.parquet")


def test_too_much_of_it(write, monkeypatch):
    path = write("dev.tsv", "fine\t1\n" * 20)
    monkeypatch.setattr("optimum_ane.evaluation.datasets.MAX_ROWS", 10)
    assert ", row 11: more than 10 rows, which is the limit; take fewer" in refusal(path)
    assert len(load(path, max_samples=10)) == 10
    assert len(load(write("exact.tsv", "fine\t1\n" * 10))) == 10
    monkeypatch.setattr("optimum_ane.evaluation.datasets.MAX_TOTAL_CHARACTERS", 20)
    assert ", row 6: more than 20 characters, which is the limit; take fewer" in refusal(path)


def test_options_that_make_no_sense(write):
    path = write("dev.tsv", "fine\t1\n")
    assert "a file has no splits; leave out split" in refusal(path, split="validation")
    assert "'sst3' names no metric of the task; leave out dataset_config or name one of: cola" in refusal(
        path, config="sst3"
    )
    assert "the column 'text' occurs twice" in refusal(write("twice.tsv", "text\ttext\tlabel\n"))
    with pytest.raises(DatasetError, match="0 samples are asked for"):
        DatasetSpec("dev.tsv", max_samples=0)
    with pytest.raises(DatasetError, match="no dataset is named"):
        DatasetSpec("")


@pytest.mark.parametrize(
    ("config", "id2label", "problem_type", "what"),
    [
        ("stsb", SENTIMENT, SINGLE, "stsb is scored on a regression checkpoint"),
        ("sst2", {0: "LABEL_0"}, "regression", "sst2 is scored on a single_label_classification checkpoint"),
        ("mrpc", {0: "a", 1: "b", 2: "c"}, SINGLE, "mrpc is scored on 2 labels, the checkpoint has 3: a, b, c"),
    ],
)
def test_metric_that_does_not_fit_the_checkpoint(write, config, id2label, problem_type, what):
    path = write("dev.tsv", "fine\t1\n")
    with pytest.raises(DatasetError, match=what):
        load(path, id2label, problem_type, config=config)


# As large as it may be: what takes the square of the number would take half a minute for each of these


@pytest.mark.parametrize(("name", "separator"), [("dev.csv", ","), ("dev.tsv", "\t")])
def test_fifty_thousand_columns(write, name, separator):
    header = [*(f"c{index}" for index in range(50_000)), "text", "label"]
    path = write(name, separator.join(header) + "\n" + separator.join([*["x"] * 50_000, "dull", "0"]) + "\n")
    assert load(path).texts == ["dull"]
    twice = write(f"twice.{name[-3:]}", separator.join([*header, "c7"]) + "\n")
    assert "the column 'c7' occurs twice" in refusal(twice, text_column="text", label_column="label")


def test_a_line_of_a_million_commas(write):
    assert "1000001 column(s) and no header that is recognised" in refusal(write("dev.csv", "," * 1_000_000 + "\n"))


def test_forty_thousand_labels(write):
    names = {index: f"label {index}" for index in range(40_000)}
    examples = load(write("dev.tsv", "dull\tLabel 39999\n"), id2label=names)
    assert examples.labels.tolist() == [39_999]


def test_a_key_that_occurs_twice_is_an_error(write):
    good = '{"text": "a", "label": 1}\n'
    message = refusal(write("dev.jsonl", good + '{"text": "b", "label": 0, "text": "c"}\n'))
    assert message.startswith(", row 2: the key 'text' occurs twice in one object")
    inside = refusal(write("dev.jsonl", good + '{"text": "b", "label": 0, "other": {"a": 1, "a": 2}}\n'))
    assert "the key 'a' occurs twice in one object" in inside
