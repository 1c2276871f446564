"""Our model class of lm-evaluation-harness beside the harness's own, on tasks of a few rows in a local file."""

import json

import pytest
import torch
from stand_ins import make_number_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.errors import DatasetError

lm_eval = pytest.importorskip("lm_eval", reason="the harness is an optional extra: pip install 'optimum-ane[lm-eval]'")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from optimum_ane.evaluation.lm_eval_model import ANELanguageModel  # noqa: E402

SIZES = {
    "vocab_size": 102, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "bos_token_id": 101, "eos_token_id": 100,
    "pad_token_id": 100,
}  # fmt: skip


class Counting:
    """A model that counts its calls."""

    def __init__(self, model):
        self.model, self.config, self.calls = model, model.config, 0
        self.generate = model.generate

    def __call__(self, **inputs):
        self.calls += 1
        return self.model(**inputs)


@pytest.fixture(scope="module")
def both():
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    tokenizer = make_number_tokenizer(bos_token="[UNK]", eos_token="[PAD]")
    counting = Counting(model)
    ours = ANELanguageModel(counting, tokenizer, max_gen_toks=5)
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, max_length=16, max_gen_toks=5, batch_size=1), counting


def ask(model, kind, *requests):
    instances = [Instance(kind, {}, arguments, index) for index, arguments in enumerate(requests)]
    return getattr(model, kind)(instances, disable_tqdm=True)


def numbers(first, count):
    return " ".join(str((first + 7 * step) % 99 + 1) for step in range(count))


def test_continuations_are_scored_as_the_harness_scores_them(both):
    ours, theirs, counting = both
    requests = [
        ("", " 5 6 7"),
        ("1 2 3", " 4"),
        ("1 2 3", " 5"),
        ("1 2 3 ", "4 5"),
        (numbers(3, 30), " 4 5 6"),  # longer than the context
        ("7", " " + numbers(5, 16)),
    ]
    before = counting.calls
    found = ask(ours, "loglikelihood", *requests)
    assert counting.calls - before == 5  # the second and the third request have the same tokens before them
    for (value, greedy), (expected, expected_greedy) in zip(
        found, ask(theirs, "loglikelihood", *requests), strict=True
    ):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy
    with torch.no_grad():
        best = counting(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].argmax().item()
    assert [greedy for _, greedy in ask(ours, "loglikelihood", ("1 2 3", f" {best}"), ("1 2 3", f" {best - 1}"))] == [
        True,
        False,
    ]


def test_whole_texts_in_windows(both):
    ours, theirs, _ = both
    requests = [(numbers(1, 4),), (numbers(2, 16),), (numbers(3, 45),)]
    found = ask(ours, "loglikelihood_rolling", *requests)
    assert found == pytest.approx(ask(theirs, "loglikelihood_rolling", *requests), abs=1e-3)
    assert ask(ours, "loglikelihood_rolling", ("",)) == [0.0]


def test_texts_are_generated_until_a_stop(both):
    ours, theirs, _ = both
    plain = ask(ours, "generate_until", ("1 2 3", {"until": [], "max_gen_toks": 5}))
    words = plain[0].split()
    assert len(words) == 5
    requests = [
        ("1 2 3", {"until": [], "max_gen_toks": 5}),
        ("1 2 3", {"until": [f" {words[2]}"], "max_gen_toks": 5}),
        (numbers(4, 30), {"until": ["\n"], "do_sample": False, "max_gen_toks": 6}),
    ]
    found = ask(ours, "generate_until", *requests)
    assert found == ask(theirs, "generate_until", *requests)
    assert found[1] == " ".join(words[:2])
    with pytest.raises(DatasetError, match="asks for 16 new tokens, the context holds 16"):
        ask(ours, "generate_until", ("1", {"until": [], "max_gen_toks": 16}))


def test_a_task_of_the_harness(both, tmp_path):
    rows = [{"question": numbers(row, 6), "choices": [numbers(row + c, 2) for c in range(3)]} for row in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row | {"answer": 1}) for row in rows))
    task = {
        "task": "numbers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    tasks = TaskManager(include_defaults=False)
    results = [
        lm_eval.simple_evaluate(model, tasks=[task], bootstrap_iters=0, task_manager=tasks)["results"]["numbers"]
        for model in both[:2]
    ]
    assert results[0]["acc,none"] == results[1]["acc,none"] > 0
    assert results[0]["acc_norm,none"] == results[1]["acc_norm,none"]


def test_what_cannot_be_scored(both):
    with pytest.raises(DatasetError, match="a continuation has 17 tokens, the context holds 16"):
        ask(both[0], "loglikelihood", ("1", " " + numbers(2, 17)))
    with pytest.raises(DatasetError, match="a continuation without a token"):
        ask(both[0], "loglikelihood", ("1", ""))
