"""Decoders without a cache: the logits of whole rows."""

import pytest
import torch
from tiny_models import make_tokenizer, psnr
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from optimum_ane import ANEModelForCausalLM, ANEModelForFeatureExtraction, export
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.stock_experts import BATCHED
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.package.form import ExportForm

SIZES = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
LENGTH = 20


def make_decoder(model_type, seed=0, **settings):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    original = make_decoder("llama")
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "text.txt").write_text("\n\n".join(["the film was not fine", "a story of plot"] * 20))
    return original, export(
        original,
        folder / "out",
        quiet=True,
        tokenizer=make_tokenizer(),
        kv_cache="none",
        sequence_length=LENGTH,
        eval_dataset=str(folder / "text.txt"),
        max_kl=1e-3,
    )


def make_inputs(side, lengths, width):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 100, (len(lengths), width), generator=generator)
    place = torch.arange(width)[None]
    kept = torch.tensor(lengths)[:, None]
    mask = place < kept if side == "right" else place >= width - kept
    return {"input_ids": torch.where(mask, ids, 1), "attention_mask": mask.long()}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("width", [LENGTH, 13])
def test_logits_are_the_originals_with_padding_on_either_side(llama, side, width):
    original, result = llama
    model = ANEModelForCausalLM.from_pretrained(result.path)
    inputs = make_inputs(side, [width, 7, 1], width)
    mask = inputs["attention_mask"].bool()
    ours = model(**inputs).logits
    assert ours.shape == (3, width, 100)
    assert psnr(original(**inputs, use_cache=False).logits[mask], ours[mask]) > 50


def test_it_does_not_generate_and_says_so(llama):
    model = ANEModelForCausalLM.from_pretrained(llama[1].path)
    assert not model.can_generate()
    with pytest.raises(UnsupportedModelError, match=r"no cache of keys and values.* gives the logits"):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=3)


def test_what_is_measured_and_predicted(llama):
    report = llama[1].report
    assert list(report.layers) == ["embeddings", "layer.0", "layer.1"]
    assert report.residency["flops_share_on_ane"] > 0.97


def test_the_next_tokens_of_the_package_are_the_originals(llama):
    accuracy = llama[1].accuracy
    assert accuracy.counts == {"tokens scored": 180, "windows": 9}
    assert 0 < accuracy.next_tokens.kl_divergence.value < 1e-4
    assert accuracy.next_tokens.top_1_agreement.value > 0.95
    assert "| mean KL divergence of the next-token distributions |" in (llama[1].path / "README.md").read_text()
    assert (
        llama[1].report.accuracy["next_tokens"]["kl_divergence"]["value"] == accuracy.next_tokens.kl_divergence.value
    )


def test_the_harness_opens_a_package(llama):
    pytest.importorskip("lm_eval", reason="the harness is an optional extra")
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    import optimum_ane.evaluation.lm_eval_model  # noqa: F401 - registers the class

    ours = get_model("ane").create_from_arg_string(f"pretrained={llama[1].path}", {"batch_size": 1, "device": "cpu"})
    theirs = get_model("ane")(llama[0], make_tokenizer())
    assert (ours.max_length, theirs.max_length) == (LENGTH, 40)
    requests = [Instance("loglikelihood", {}, ("the film was", " not very good"), 0)]
    (found, _), (expected, _) = (model.loglikelihood(requests, disable_tqdm=True)[0] for model in (ours, theirs))
    assert found == pytest.approx(expected, rel=1e-3)


def test_examples_are_padded_on_both_sides():
    config = StockTextANEConfig(AutoConfig.for_model("llama", **SIZES), "text-generation")
    (batch,) = config.examples(ExportForm(task="text-generation", sequence_length=12))
    assert batch["attention_mask"].sum(1).tolist() == [12, 8, 5, 1]
    assert [row[0].item() for row in batch["attention_mask"]] == [1, 0, 1, 0]
    assert [row[-1].item() for row in batch["attention_mask"]] == [1, 1, 0, 1]
    assert (batch["input_ids"] == 1).equal(batch["attention_mask"] == 0)


def test_experts_become_batched_products_and_are_what_they_were_afterwards(tmp_path):
    # Of another seed a token's third expert is nearly its second: float16 may choose the one or the other.
    original = make_decoder(
        "qwen3_moe", seed=1, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=12
    )
    before = original.get_experts_implementation()
    assert BATCHED not in before.values()
    result = export(
        original, tmp_path / "out", quiet=True, tokenizer=make_tokenizer(), kv_cache="none", sequence_length=LENGTH
    )
    assert original.get_experts_implementation() == before
    model = ANEModelForCausalLM.from_pretrained(result.path)
    inputs = make_inputs("right", [LENGTH, 9], LENGTH)
    mask = inputs["attention_mask"].bool()
    assert psnr(original(**inputs, use_cache=False).logits[mask], model(**inputs).logits[mask]) > 50


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_embedder_pools_the_last_token(side, embedder):
    original, path = embedder
    model = ANEModelForFeatureExtraction.from_pretrained(path)
    inputs = make_inputs(side, [LENGTH, 9, 1], LENGTH)
    hidden, mask = original(**inputs, use_cache=False).last_hidden_state, inputs["attention_mask"]
    last = torch.stack([row[own.nonzero().max()] for row, own in zip(hidden, mask, strict=True)])
    assert psnr(torch.nn.functional.normalize(last, dim=1), model(**inputs).pooler_output) > 50


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    original = AutoModel.from_config(AutoConfig.for_model("qwen3", **SIZES, head_dim=16)).eval().requires_grad_(False)
    forms = {"sequence_length": LENGTH, "pooling": "lasttoken", "normalize": True}
    output = tmp_path_factory.mktemp("embedder") / "out"
    return original, export(original, output, quiet=True, tokenizer=make_tokenizer(), **forms).path
