"""Decoders compressed: several functions over one state, and several programs."""

import numpy as np
import pytest
import torch
from stored_programs import WEIGHTS, stored_arrays
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane import export
from optimum_ane.compression import compress as compress_module
from optimum_ane.compression import compress_mlpackage, get_recipe
from optimum_ane.compression.compress import compress_mlpackages
from optimum_ane.compression.feed_forward import is_feed_forward
from optimum_ane.errors import CompressionError
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.multifunction import split_function
from optimum_ane.validation.psnr import psnr

CONTEXT, BLOCK = 32, 8
SIZES = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
    "intermediate_size": 128, "vocab_size": 192, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "pad_token_id": 1,
}  # fmt: skip
FUNCTIONS = {"infer": (1, "logits"), "prefill": (BLOCK, "position"), "score": (BLOCK, "logits")}
TOKENS = np.random.default_rng(1).integers(2, 190, (1, BLOCK + 1)).astype(np.int32)


def mask(position, length):
    rows, queries = np.arange(CONTEXT), position + np.arange(length)
    return np.where(rows <= queries[:, None], 0.0, -3e4)[None, None].astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random Llama: `infer`, `prefill` and `score` over one copy of the weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    for parameter in model.eval().requires_grad_(False).parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("decoder")
    lengths = {"context_length": CONTEXT, "prefill_length": BLOCK}
    export(model, folder / "out", task="text-generation", quiet=True, **lengths)
    return folder / "out" / MLPACKAGE


def logits_of(path):
    """Of `score` on a block, and of `infer` after `prefill` of the same block: two ways through one state each."""
    session = PortableSession(path, "infer")

    def run(function, first, state):
        length, _ = FUNCTIONS[function]
        inputs = {
            "input_ids": TOKENS[:, first : first + length],
            "position": np.array([first], np.int32),
            "causal_mask": mask(first, length),
        }
        return session.function(function).predict(inputs, state) if function != "infer" else session.predict(
            inputs, state
        )  # fmt: skip

    state = session.make_state()
    scored = run("score", 0, state)["logits"]
    state = session.make_state()
    run("prefill", 0, state)
    return scored, run("infer", BLOCK, state)["logits"]


FORMS = {
    "int8": ({"int8 per channel"}, 30),
    "palette6": ({"palette of 6 bits"}, 20),
    "palette4-g16-feed-forward": ({"palette of 4 bits, groups of 16", "int8 per channel"}, 12),
}


@pytest.mark.parametrize("recipe", FORMS)
def test_functions_share_each_weight_and_answer_closely(source, tmp_path, recipe):
    target = tmp_path / "model.mlpackage"
    coverage = compress_mlpackage(source, target, get_recipe(recipe))
    forms, least = FORMS[recipe]
    assert {weight.form for weight in coverage.compressed} == forms
    if len(forms) > 1:  # four bits for feed-forward layers alone
        palettes = {weight.name for weight in coverage.compressed if weight.form.startswith("palette")}
        assert palettes == {weight.name for weight in coverage.weights if "_mlp_" in weight.name}
        assert len(palettes) == 3
    assert all(len(weight.shape) == 1 or np.prod(weight.shape) <= 2048 for weight in coverage.skipped)
    stored = stored_arrays(target)
    assert len(set(stored)) == len(stored)
    split_function(target, "score", tmp_path / "score.mlpackage")
    alone, both = ((path / WEIGHTS).stat().st_size for path in (tmp_path / "score.mlpackage", target))
    assert both - alone < 3000  # tables of `infer` of one row
    for expected, actual in zip(logits_of(source), logits_of(target), strict=True):
        assert least < psnr(expected, actual) < 60


def test_programs_of_a_package_share_their_palettes(source, tmp_path, monkeypatch):
    """As a first and a last chunk share a tied table; a name of the recipe need not be in both."""
    split_function(source, "infer", tmp_path / "first.mlpackage")
    split_function(source, "prefill", tmp_path / "last.mlpackage")  # has no head
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: [{kind: palettize, global: {nbits: 4}, weights: {'*lm_head*': {nbits: 6}}}]\n")
    found = []
    find = compress_module.palette
    monkeypatch.setattr(compress_module, "palette", lambda values, nbits: found.append(nbits) or find(values, nbits))
    programs = {
        name: (tmp_path / f"{name}.mlpackage", tmp_path / f"{name}-out.mlpackage") for name in ("first", "last")
    }
    coverage = compress_mlpackages(programs, get_recipe(recipe))
    forms = [(weight.name.split("/")[0], weight.form) for weight in coverage.compressed]
    assert forms.count(("first", "palette of 6 bits")) == 1
    assert forms.count(("first", "palette of 4 bits")) > forms.count(("last", "palette of 4 bits")) > 0
    assert len(found) == sum(program == "first" for program, _ in forms)
    sizes = [
        sum(len(data) for _, data in stored_arrays(target)) for _, target in programs.values()
    ]  # fmt: skip
    assert coverage.bytes_after == pytest.approx(sum(sizes), rel=0.01)
    with pytest.raises(CompressionError, match=r"'\*lm_head\*' matches none of the"):
        compress_mlpackage(programs["last"][0], tmp_path / "alone.mlpackage", get_recipe(recipe))


def test_feed_forward_layers_are_told_by_the_names_of_modules():
    layers = (
        "model_layers_0_mlp_gate_proj_weight_to_fp16", "gpt_neox_layers_0_mlp_dense_4h_to_h_weight",
        "model_decoder_layers_11_fc1_weight_carried_to_fp16", "transformer_blocks_0_ffn_up_proj_weight",
        "model_layers_0_feed_forward_w1_weight", "model_layers_3_mlp_experts_gate_up_proj",
        "layer_0_intermediate_dense_weight", "layer_0_output_dense_weight", "transformer_h_0_mlp_fc_in_weight",
    )  # fmt: skip
    others = (
        "model_layers_0_self_attn_q_proj_weight", "layer_0_attention_output_dense_weight", "lm_head_weight",
        "model_embed_tokens_weight", "model_layers_3_mlp_gate_weight_to_fp16", "model_layers_0_mlp_router_weight",
        "pooler_dense_weight", "transpose_2_carried_to_fp16",
    )  # fmt: skip
    assert all(is_feed_forward(name, ()) for name in layers)
    assert not any(is_feed_forward(name, ()) for name in others)
    assert is_feed_forward("transpose_2_carried_to_fp16", ["transformer_h_0_mlp_c_fc"])
