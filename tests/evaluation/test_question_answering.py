import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import WORDS, make_tokenizer

from optimum_ane.errors import DatasetError, ShapeError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.question_answering import BEST, LONGEST_ANSWER, QuestionAnswering, Questions

EVALUATOR = QuestionAnswering(SimpleNamespace())
CONTEXT = "the film was very fine and the plot was dull but gripping"


class Spans:
    """Scores of each token as start and as end, by its id and, if wished, by the window's first words."""

    def __init__(self, starts, ends):
        self.starts, self.ends = (torch.as_tensor(np.asarray(table), dtype=torch.float32) for table in (starts, ends))

    def __call__(self, input_ids, attention_mask):
        return SimpleNamespace(start_logits=self.starts[input_ids], end_logits=self.ends[input_ids])


def words(**scores):
    """A table of scores by token: 0 but for the words given; `none` is the first token."""
    ids = make_tokenizer().get_vocab()
    table = np.zeros(len(ids))
    for word, score in scores.items():
        table[ids["<s>" if word == "none" else word]] = score
    return table


def questions(*rows, config="squad"):
    asked, contexts, answers = zip(*rows, strict=True)
    return Questions("dev", config, None, list(asked), list(contexts), [list(each) for each in answers])


def run(data, package, reference=None, sequence_length=32):
    return EVALUATOR.compare(
        reference, package, make_tokenizer(), data, sequence_length=sequence_length, runtime="portable"
    )


def test_by_hand():
    data = questions(("film", CONTEXT, ["very fine"]), ("film", CONTEXT, ["dull but"]))
    original = Spans(words(very=5), words(fine=5))
    package = Spans(words(very=5), words(fine=4, very=4.5))
    report = run(data, package, original)
    assert report.original.metrics == {"f1": 0.5, "exact_match": 0.5}
    assert report.package.metrics == {"f1": pytest.approx(1 / 3), "exact_match": 0.0}  # "very" for "very fine"
    assert (report.primary_metric, report.original.right, report.package.right) == ("f1", 1, 0)
    assert report.drop == pytest.approx(100 / 6)
    assert (report.agreement, report.rows, report.truncated, report.counts) == (0.0, 2, 0, {"windows": 2})
    # Of each start: no error. Of each end: 1 and 4.5 off in 16 tokens, peak 5; the lower one is reported.
    assert report.psnr == pytest.approx(20 * np.log10(5 / np.sqrt((1 + 4.5**2) / 16)))


def test_a_start_after_the_end_and_a_long_answer_are_no_candidates():
    data = questions(("film", CONTEXT, ["very fine"]))
    assert run(data, Spans(words(fine=9, very=5), words(very=9, fine=5))).package.metrics["f1"] == pytest.approx(2 / 3)
    long = " ".join(["film", *["was"] * LONGEST_ANSWER, "dull"])
    scores = words(film=9), words(dull=9, was=1)
    report = run(questions(("plot", long, ["dull"])), Spans(*scores), sequence_length=40)
    # From "film" to "dull" there are two tokens too many: the answer ends with "was".
    assert report.package.metrics["f1"] == 0.0
    long = " ".join(["film", *["was"] * (LONGEST_ANSWER - 2), "dull"])
    assert run(questions(("plot", long, [long])), Spans(*scores), sequence_length=40).package.metrics["f1"] == 1.0


def test_tokens_outside_the_context_are_no_answers():
    data = questions(("gripping story", CONTEXT, ["fine"]))
    assert run(data, Spans(words(story=9, none=9, fine=1), words(story=9, none=9, fine=1))).package.right == 1


def test_no_answer():
    rows = [("film", CONTEXT, ["fine"]), ("film", CONTEXT, [])]
    sure, unsure = words(fine=3), words(fine=3, none=4)
    for scores, metrics in ((sure, (1.0, 0.0)), (unsure, (0.0, 1.0))):
        report = run(questions(*rows, config="squad_v2"), Spans(scores, scores))
        assert (report.package.metrics["HasAns_exact"], report.package.metrics["NoAns_exact"]) == metrics
    assert run(questions(rows[0]), Spans(unsure, unsure)).package.right == 1  # 1.1 knows no such answer


def test_a_long_context_is_read_in_windows():
    """The answer stands in the last of several windows; one window that is sure of an answer is enough."""
    context = " ".join(["film", "was"] * 30 + ["very", "fine"])
    data = questions(("story of plot", context, ["very fine"]), config="squad_v2")
    scores = words(very=3, fine=2, none=2), words(fine=3, none=2)
    report = run(data, Spans(*scores), sequence_length=24)
    assert report.package.right == 1
    # 24 tokens less 3 of the question and 3 special ones are 18, of which 8 overlap: ⌈(62 − 8) / 10⌉ windows.
    assert (report.counts, report.truncated) == ({"windows": 6}, 0)


def brute_force(tokenizer, question, context, starts, ends, sequence_length, with_none):
    """transformers' example, run_qa.py with utils_qa.py, in plain loops."""
    encoding = tokenizer(
        question, context, truncation="only_second", max_length=sequence_length, stride=sequence_length // 3,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    null_scores, candidates = [], []
    for window, ids in enumerate(encoding["input_ids"]):
        start_logits, end_logits = starts[ids], ends[ids]
        null_scores.append(start_logits[0] + end_logits[0])
        parts = encoding.sequence_ids(window)
        for start in np.argsort(start_logits)[::-1][:BEST]:
            for end in np.argsort(end_logits)[::-1][:BEST]:
                if parts[start] != 1 or parts[end] != 1 or end < start or end - start + 1 > LONGEST_ANSWER:
                    continue
                offsets = encoding["offset_mapping"][window]
                score = start_logits[start] + end_logits[end]
                candidates.append((score, context[offsets[start][0] : offsets[end][1]]))
    score, text = max(candidates, key=lambda candidate: candidate[0])
    return "" if with_none and min(null_scores) > score else text


@pytest.mark.parametrize("config", ["squad", "squad_v2"])
def test_answers_are_those_of_transformers_example(config):
    random = np.random.default_rng(0)
    vocabulary = WORDS.split()
    tokenizer = make_tokenizer()
    # A score for each occurrence, so that no two candidates tie: by token id plus a little by what stands around it.
    starts, ends = random.normal(size=(2, len(tokenizer))) * 3
    starts[0] = ends[0] = 3.2
    rows = [
        (" ".join(random.choice(vocabulary, 3)), " ".join(random.permutation(vocabulary)[: random.integers(4, 20)]))
        for _ in range(60)
    ]
    expected = [
        brute_force(tokenizer, question, context, starts, ends, 18, config == "squad_v2") for question, context in rows
    ]
    assert len(set(expected)) > 10
    assert ("" in expected) == (config == "squad_v2")
    data = questions(*((question, context, ["x"]) for question, context in rows), config=config)
    features = EVALUATOR.encode(tokenizer, data, range(60), 18).features
    outputs = [
        {name: table[feature.inputs["input_ids"]].astype(np.float32) for name, table in
         (("start_logits", starts), ("end_logits", ends))}
        for feature in features
    ]  # fmt: skip
    assert len(features) > 90
    scores = EVALUATOR.score(data, list(EVALUATOR.answers(features, outputs)))
    assert scores.predictions.tolist() == expected


def test_left_padding_changes_no_answer():
    tokenizer = make_tokenizer(padding_side="left")
    random = np.random.default_rng(0)
    tables = random.normal(size=(2, len(tokenizer)))
    data = questions(*(("film", " ".join(CONTEXT.split()[:length]), ["fine"]) for length in (3, 12, 7, 9)))
    reports = [
        EVALUATOR.compare(None, Spans(*tables), each, data, sequence_length=24, runtime="portable")
        for each in (tokenizer, make_tokenizer())
    ]
    assert reports[0].package.metrics == reports[1].package.metrics
    assert reports[0].package.metrics["f1"] > 0


def test_a_long_question_is_cut_and_counted():
    data = questions(("film " * 40, CONTEXT, ["very fine"]), ("film", CONTEXT, ["very fine"]))
    report = run(data, Spans(words(very=5), words(fine=5)), sequence_length=16)
    assert (report.truncated, report.package.right) == (1, 2)
    with pytest.raises(ShapeError, match="4 tokens hold no question and context with 3 special tokens"):
        run(data, Spans(words(very=5), words(fine=5)), sequence_length=4)
    report = run(data, Spans(words(fine=5), words(fine=5)), sequence_length=5)  # one token of each
    assert report.package.metrics["f1"] == pytest.approx(2 / 3)


def test_bad_outputs():
    data = questions(("film", CONTEXT, ["fine"]))
    with pytest.raises(ValidationError, match="the package gives no start_logits"):
        run(data, lambda **inputs: SimpleNamespace(logits=torch.zeros(1, 3)))
    with pytest.raises(ValidationError, match=r"the package answers with start_logits of shape \(1, 3\) for 1 rows"):
        run(data, lambda **inputs: SimpleNamespace(start_logits=torch.zeros(1, 3), end_logits=torch.zeros(1, 3)))
    with pytest.raises(ValidationError, match="NaN or infinity, first for example 1"):
        run(data, Spans(words(plot=np.nan), words()))


# The dataset


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "dev.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return DatasetSpec(str(path))

    return write


def row(answers):
    return {"id": "1", "title": "t", "context": CONTEXT, "question": " film", "answers": answers}


def test_squads_own_form(write):
    data = EVALUATOR.load(write(row({"text": ["fine", "very fine"], "answer_start": [18, 13]})))
    assert (data.questions, data.contexts, data.answers) == (["film"], [CONTEXT], [["fine", "very fine"]])
    assert data.metric_config == "squad"


@pytest.mark.parametrize(("value", "answers"), [(["fine"], ["fine"]), ("fine", ["fine"]), ("", []), ([], [])])
def test_plainer_forms_of_answers(write, value, answers):
    data = EVALUATOR.load(write(row(value)))
    assert (data.answers, data.metric_config) == ([answers], "squad" if answers else "squad_v2")


def test_csv_and_other_columns(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("q,text,a\nfilm,it was fine,fine\n")
    spec = DatasetSpec(str(path), text_column="q", text_pair_column="text", label_column="a")
    assert EVALUATOR.load(spec).answers == [["fine"]]


def test_parquet_as_datasets_writes_it(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict(
        {"question": ["film"], "context": [CONTEXT], "answers": [{"text": ["fine"], "answer_start": [18]}]}
    )
    table.to_parquet(tmp_path / "dev.parquet")
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.parquet"))).answers == [["fine"]]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"answers": None}, "column answers: a list of answers is expected, found nothing"),
        ({"answers": 3}, "column answers: a list of answers is expected, found int"),
        ({"answers": [3]}, "column answers: a text is expected, found int"),
        ({"answers": {"answer": ["fine"]}}, "column answers: answers without the key 'text'"),
        ({"answers": {"text": {"a": 1}}}, "column answers: a list of answers is expected, found dict"),
        ({"context": ""}, "column context: the context is empty"),
        ({"question": "  "}, "column question: the question is empty"),
        ({"question": ["film"]}, "column question: a text is expected, found list"),
        ({"context": "x" * 200_000}, "column context: the text has 200,000 characters"),
        ({"question": "\0"}, "column question: there is a NUL character"),
    ],
)
def test_flawed_rows(write, fields, what):
    with pytest.raises(DatasetError, match=f"row 2, {what}"):
        EVALUATOR.load(write(row(["fine"]), row(["fine"]) | fields))


def test_options(write):
    spec = write(row(["fine"]), row([]))
    with pytest.raises(DatasetError, match="row 2, column answers: there is no answer, which squad does not know"):
        EVALUATOR.load(DatasetSpec(spec.dataset, "squad"))
    assert EVALUATOR.load(DatasetSpec(spec.dataset, "squad_v2", max_samples=1)).metric_config == "squad_v2"
    with pytest.raises(DatasetError, match=r"'sst2' names no metric of the task; .* name one of: squad, squad_v2"):
        EVALUATOR.load(DatasetSpec(spec.dataset, "sst2"))
    with pytest.raises(DatasetError, match="choices_column says nothing to question-answering"):
        EVALUATOR.load(DatasetSpec(spec.dataset, choices_columns=("a",)))
    with pytest.raises(DatasetError, match="no answers column is recognised among: a, question, context"):
        EVALUATOR.load(write({"a": 1, "question": "q", "context": "c"}))
    with pytest.raises(DatasetError, match="one column serves twice"):
        EVALUATOR.load(DatasetSpec(spec.dataset, label_column="context"))
