import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from stand_ins import TokenLookup, make_number_tokenizer
from tiny_models import make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.errors import CheckpointError, DatasetError, ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.text_generation import BLOCK, Passages, TextGeneration
from optimum_ane.evaluation.token_windows import make_windows, tokenize_text
from optimum_ane.validation.psnr import psnr

EVALUATOR = TextGeneration(AutoConfig.for_model("llama"))
SIZES = {
    "vocab_size": 102, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LENGTH = 24
NUMBERS = " ".join(str(number) for number in np.random.default_rng(0).integers(0, 100, 1 + 60 * 24))


def passages(*texts, stride=None):
    return Passages("dev", "perplexity", None, list(texts), stride)


def run(data, package, reference=None, tokenizer=None, sequence_length=LENGTH):
    return EVALUATOR.compare(
        reference, package, tokenizer or make_number_tokenizer(), data,
        sequence_length=sequence_length, runtime="portable",
    )  # fmt: skip


def make_decoder(noise=0.0):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter *= 1 + noise * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("prefix", [[], [900], [900, 901]])
@pytest.mark.parametrize("stride", [None, 1, 5, 8])
@pytest.mark.parametrize("count", [2, 9, 10, 11, 40])
def test_each_token_is_scored_once_with_what_stands_before_it(prefix, stride, count):
    tokens, length = list(range(count)), 9
    windows = make_windows(prefix, tokens, length, stride)
    scored = [int(token) for window in windows for token in window.targets]
    assert scored == tokens[0 if prefix else 1 :]
    for index, window in enumerate(windows):
        assert 1 <= len(window.ids) <= length
        assert window.ids[: len(prefix)] == prefix
        for position, target in zip(window.positions, window.targets, strict=True):
            before = window.ids[len(prefix) : position + 1]
            assert before == tokens[target - len(before) : target]
            assert before or prefix
        if index and stride is not None:
            assert len(window.targets) <= stride
            # All the room there is before the first scored token is used.
            assert len(window.ids) == length
    if stride is None and not prefix:
        assert len(windows) == math.ceil((count - 1) / length)


def test_windows_that_leave_tokens_out():
    make_windows([], range(30), 8, 8)
    with pytest.raises(DatasetError, match="a stride of 9 leaves tokens out; windows of 8 take up to 8"):
        make_windows([], range(30), 8, 9)
    with pytest.raises(CheckpointError, match="room for 8 special tokens and no other"):
        make_windows(range(8), range(30), 7)
    with pytest.raises(DatasetError, match="no token that another one stands before"):
        make_windows([], [1], 8)


def test_marks_of_the_beginning_stand_before_each_window_and_marks_of_the_end_nowhere():
    tokenizer = make_tokenizer()
    prefix, tokens = tokenize_text(tokenizer, "the film was fine")
    assert tokenizer.convert_ids_to_tokens(prefix) == ["<s>"]
    assert tokenizer.convert_ids_to_tokens(tokens) == ["the", "film", "was", "fine"]
    features = EVALUATOR.encode(tokenizer, passages("the film", "was fine"), [0, 1], 3).features
    words = [tokenizer.convert_ids_to_tokens(feature.inputs["input_ids"]) for feature in features]
    assert words == [["<s>", "the", "film"], ["<s>", "film", "was"]]
    assert tokenize_text(make_number_tokenizer(), "3 4") == ([], [3, 4])


def test_by_hand():
    """After any token the package holds 1, 2 and the rest for likely as 4 : 2 : 1, the original as 2 : 2 : 1."""
    ours, theirs = np.zeros((102, 102)), np.zeros((102, 102))
    ours[:, 1], ours[:, 2] = math.log(4), math.log(2)
    theirs[:, 1], theirs[:, 2] = math.log(2), math.log(2)
    report = run(passages("7 1 2 1 9"), TokenLookup(ours), TokenLookup(theirs), sequence_length=3)
    assert report.package.metrics == pytest.approx(
        {"top_1_accuracy": 0.5, "top_5_accuracy": 0.75, "perplexity": (106**4 / (4 * 2 * 4 * 1)) ** 0.25}
    )
    assert report.original.metrics["perplexity"] == pytest.approx((104**4 / 8) ** 0.25)
    assert report.counts == {"tokens scored": 4, "windows": 2}
    found = report.next_tokens
    assert found.perplexity_increase.value == pytest.approx(100 * (106 / 104 * 0.25**0.25 - 1))
    # Σ p ln(p/q) over the words 1, 2 and a hundred others.
    divergence = 2 / 104 * math.log(2 / 4 * 106 / 104) + 102 / 104 * math.log(106 / 104)
    assert found.kl_divergence.value == pytest.approx(divergence, rel=1e-6)
    assert (found.top_1_agreement.value, found.top_5_agreement.value) == (1.0, 1.0)
    error = math.sqrt(math.log(2) ** 2 / 102)
    assert found.median_row_psnr == pytest.approx(20 * math.log10(math.log(2) / error))
    assert report.psnr == pytest.approx(found.median_row_psnr)
    assert found.kl_divergence.low is None  # four tokens are too few to draw from


def test_agreement_by_hand():
    """The original's likeliest word, 50, is the package's first after 0, its third after 1, its sixth after 2."""
    ours, theirs = np.zeros((102, 102)), np.zeros((102, 102))
    theirs[:, 50] = 9
    ours[:, 50] = 3
    ours[1, [60, 61]] = 5
    ours[2, 60:65] = 5
    report = run(passages("0 1 2 2 0"), TokenLookup(ours), TokenLookup(theirs))
    found = report.next_tokens
    assert (found.top_1_agreement.value, found.top_5_agreement.value) == (0.25, 0.5)
    assert report.agreement == 0.25


@pytest.mark.parametrize("stride", [None, 7])
def test_an_equal_model_is_equal_and_its_perplexity_as_transformers_computes_it(stride):
    model = make_decoder()
    report = run(passages(NUMBERS, stride=stride), make_decoder(), model)
    found = report.next_tokens
    assert found.kl_divergence.value == found.perplexity_increase.value == 0
    assert found.top_1_agreement.value == found.top_5_agreement.value == 1
    assert report.psnr == found.low_row_psnr == math.inf
    tokens = torch.tensor([[int(number) for number in NUMBERS.split()]])
    losses, scored = [], 1
    while scored < tokens.shape[1]:
        end = min(scored + (stride or LENGTH) if losses else LENGTH + 1, tokens.shape[1])
        ids = tokens[:, max(0, end - LENGTH - 1) : end]
        labels = ids.clone()
        labels[:, : -(end - scored)] = -100
        losses += [model(input_ids=ids, labels=labels).loss.item()] * (end - scored)
        scored = end
    assert len(losses) == report.counts["tokens scored"] == 1440
    assert report.package.metrics["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    check_accuracy(report, AccuracyLimits(max_accuracy_drop=0, max_perplexity_increase=0, max_kl=0))


@pytest.fixture(scope="module")
def perturbed():
    return run(passages(NUMBERS), make_decoder(0.02), make_decoder())


def test_a_perturbed_model_against_scipy(perturbed):
    tokens = [int(number) for number in NUMBERS.split()]
    theirs, ours = (
        np.concatenate(
            [
                model(input_ids=torch.tensor([tokens[start : start + LENGTH]])).logits[0].numpy()
                for start in range(0, len(tokens) - 1, LENGTH)
            ]
        )[: len(tokens) - 1]
        for model in (make_decoder(), make_decoder(0.02))
    )
    p, q = (np.exp(logits.astype(np.float64)) for logits in (theirs, ours))
    found = perturbed.next_tokens
    assert found.kl_divergence.value == pytest.approx(entropy(p, q, axis=-1).mean(), rel=1e-9)
    best = theirs.argmax(-1)
    assert found.top_1_agreement.value == (best == ours.argmax(-1)).mean() < 1
    among = (np.argsort(-ours, axis=-1)[:, :5] == best[:, None]).any(-1)
    assert found.top_5_agreement.value == among.mean() > found.top_1_agreement.value
    rows = np.array([psnr(expected, actual) for expected, actual in zip(theirs, ours, strict=True)])
    assert found.median_row_psnr == pytest.approx(np.sort(rows)[719], rel=1e-9)
    assert found.low_row_psnr == pytest.approx(np.sort(rows)[1])
    assert perturbed.psnr == pytest.approx(psnr(theirs, ours))
    kl = found.kl_divergence
    assert 0 < kl.low < kl.value < kl.high < 2 * kl.value
    assert found.perplexity_increase.low < found.perplexity_increase.value < found.perplexity_increase.high
    log = math.log(perturbed.package.metrics["perplexity"] / perturbed.original.metrics["perplexity"])
    assert found.perplexity_increase.value == pytest.approx(100 * math.expm1(log))


def test_intervals_are_of_blocks_of_neighbours():
    """Where whole blocks are right or wrong together, the interval is as wide as so few blocks make it."""
    right = np.zeros((102, 102))
    right[1, 1] = 9
    text = " ".join(["1"] * (BLOCK * 10) + ["2"] * (BLOCK * 10) + ["3"])
    report = run(passages(text), TokenLookup(right), TokenLookup(np.zeros((102, 102))))
    low, high = report.drop_interval
    assert report.drop == pytest.approx(-50, abs=0.1)
    assert low < -50 - 15 < -50 + 15 < high


def test_what_is_printed(perturbed, capsys):
    from optimum_ane.evaluation.report import print_report

    print_report(perturbed)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"KL divergence {perturbed.next_tokens.kl_divergence.value:.3g} nats (95% interval" in printed
    assert "in windows of 24 tokens, each 24 on; 1440 tokens scored; 60 windows" in printed
    assert "tokens per second" in printed
    written = perturbed.to_dict()
    assert written["next_tokens"]["kl_divergence"]["value"] == perturbed.next_tokens.kl_divergence.value
    assert written["stride"] == 24


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_perplexity_increase": -50.0}, r"higher than the original's by .* %, max_perplexity_increase allows"),
        ({"max_kl": 1e-6}, r"nats from the original's, max_kl allows 1e-06"),
        ({"max_accuracy_drop": -100.0}, "max_accuracy_drop allows"),
    ],
)
def test_gates(perturbed, limits, message):
    loose = {"max_accuracy_drop": 100, "max_perplexity_increase": 100, "max_kl": 1}
    check_accuracy(perturbed, AccuracyLimits(**loose))
    with pytest.raises(ValidationError, match=message):
        check_accuracy(perturbed, AccuracyLimits(**loose | limits))


def test_limits_of_language_models_say_nothing_to_others():
    AccuracyLimits(max_kl=0.1).check_task("text-generation")
    with pytest.raises(ValidationError, match="max_kl is for text-generation and says nothing to fill-mask"):
        AccuracyLimits(max_kl=0.1).check_task("fill-mask")


def test_without_the_original():
    report = run(passages(NUMBERS), make_decoder())
    assert (report.original, report.next_tokens, report.drop, report.psnr) == (None, None, None, None)
    assert 1 < report.package.metrics["perplexity"] < math.inf


def test_models_that_do_not_fit():
    with pytest.raises(CheckpointError, match="has a token 99, the package scores 50; they do not belong together"):
        run(passages("1 99"), TokenLookup(np.zeros((102, 50))))
    with pytest.raises(ValidationError, match="the package scores 102 tokens, the original 103"):
        run(passages("1 99"), TokenLookup(np.zeros((102, 102))), TokenLookup(np.zeros((102, 103))))
    with pytest.raises(ValidationError, match="the package answers with NaN or infinity"):
        run(passages("1 99"), TokenLookup(np.full((102, 102), math.nan)))
    with pytest.raises(DatasetError, match="dev: the text has no token"):
        run(passages("1"), TokenLookup(np.zeros((102, 102))))


def test_texts_of_files(tmp_path):
    (tmp_path / "book.txt").write_text("first line\nsecond\n \n\n\nanother paragraph\r\n\nthe end")
    found = EVALUATOR.load(DatasetSpec(str(tmp_path / "book.txt"), stride=3))
    assert found.texts == ["first line\nsecond", "another paragraph", "the end"]
    assert found.stride == 3
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "book.txt"), max_samples=1)).texts == ["first line\nsecond"]
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na film\t0\n")
    assert EVALUATOR.load(DatasetSpec(str(tmp_path / "dev.tsv"))).texts == ["a film"]
    (tmp_path / "bad.txt").write_text("fine\n\nodd\n" + "x" * 100_001)
    with pytest.raises(DatasetError, match=r"bad\.txt, row 3, column text: the text has 100,005 characters"):
        EVALUATOR.load(DatasetSpec(str(tmp_path / "bad.txt")))
    with pytest.raises(DatasetError, match="stride says nothing to text-classification"):
        DatasetSpec("dev.tsv", stride=3).check_options("text-classification")
