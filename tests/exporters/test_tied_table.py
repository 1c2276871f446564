"""Tables that words are looked up in and scored with: once in the file, whatever functions and compression."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.compression.weights import StoredWeights
from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.exporters.cached_decoder.tied_table import look_up
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.targets.coreml.multifunction import unshared_weights
from optimum_ane.validation.psnr import psnr

CONTEXT, VOCABULARY = 16, 20_001
LENGTHS = {"infer": (1, "logits"), "prefill": (4, "position")}
# Both pieces, their first and last rows.
WORDS = torch.tensor([[0, 10_000, 10_001, 20_000, 7]])
SMALLER = WORDS.clamp(max=11_999)


def make(model_type, **settings):
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 32, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, hidden_size=32, **sizes, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Norms whose weights float16 does not hold: their rounding must not be carried into the table.
        parameter.copy_(torch.randn(parameter.shape) * 0.2 + (1 if "norm" in name or "ln_" in name else 0))
    return model


def build(model, path, names=tuple(LENGTHS), words=WORDS):
    functions = []
    for name in names:
        length, answers = LENGTHS[name]
        inputs = {
            "input_ids": words[:, :length].int(),
            "position": torch.tensor([3]).int(),
            "causal_mask": mask(3, length),
        }
        functions.append(
            ConvertibleFunction(
                name,
                partial(CachedDecoder, model, CONTEXT, answers),
                inputs,
                ["logits" if answers == "logits" else "next_position"],
                states={"kv_cache": CachedDecoder(model, CONTEXT).kv_cache.shape},
            )
        )
    build_program(
        functions,
        path,
        precision="float16",
        minimum_deployment_target="iOS18",
        class_labels=None,
        metadata=Metadata("A decoder.", "somebody", "mit", "1", {}),
        conversion=Conversion("trace", is_stock=True, engine_layout=True),
    )
    return path


def mask(position, length):
    rows, queries = torch.arange(CONTEXT), position + torch.arange(length)
    return torch.where(rows <= queries[:, None], 0.0, -3e4)[None, None]


def answer(path):
    """The logits behind a prefill of the first words."""
    prefill, infer = (PortableSession(path, name) for name in ("prefill", "infer"))
    state, words = infer.make_state(), WORDS.numpy().astype(np.int32)
    prefill.predict(
        {"input_ids": words[:, :4], "position": np.array([0], np.int32), "causal_mask": mask(0, 4).numpy()}, state
    )
    return infer.predict(
        {"input_ids": words[:, 4:], "position": np.array([4], np.int32), "causal_mask": mask(4, 1).numpy()}, state
    )["logits"][:, 0]


def tables(path, width):
    """The weights with as many columns as the words have and most of the rows."""
    return {
        name: weight.op_types
        for name, weight in StoredWeights(path).weights.items()
        if weight.elements > 5_000 * width or weight.op_types == ("gather", "conv")
    }


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = make("llama", vocab_size=VOCABULARY, num_key_value_heads=1, intermediate_size=48, tie_word_embeddings=True)
    return model, build(model, tmp_path_factory.mktemp("tied") / "model.mlpackage")


def test_a_table_in_pieces_is_stored_once_for_all_functions(llama):
    model, path = llama
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size <= 1.01 * 2 * parameters
    assert list(tables(path, 32).values()) == [("gather", "conv")] * 2
    with torch.no_grad():
        assert psnr(model(WORDS).logits[:, -1].numpy(), answer(path)) >= 60


def test_what_functions_do_not_share_is_named(llama):
    # Of the last layer a prefill computes keys and values only.
    last = [f"model_model_layers_1_{name}_proj_weight_to_fp16" for name in (
        "mlp_gate", "mlp_up", "mlp_down", "self_attn_q", "self_attn_o"
    )]  # fmt: skip
    listed = unshared_weights(llama[1])
    assert [each.name for each in listed[:5]] == last
    assert [each.stored_bytes for each in listed] == [3072] * 3 + [2048] * 2 + [128] * 2  # and two norms
    assert {each.functions for each in listed} == {("infer",)}


@pytest.mark.parametrize("recipe", ["int8", "palette6"])
def test_compression_keeps_it_once(llama, recipe, tmp_path):
    path = llama[1]
    compressed = tmp_path / "model.mlpackage"
    compress_mlpackage(path, compressed, get_recipe(recipe))
    assert list(tables(compressed, 32).values()) == [("gather", "conv")] * 2
    stored = [weight.stored_bytes for weight in StoredWeights(compressed).weights.values()]
    bits = 8 if recipe == "int8" else 6
    assert sum(stored) <= 1.1 * VOCABULARY * 32 * bits / 8 + 30_000
    assert psnr(answer(path), answer(compressed)) >= 25


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("gpt2", {}), ("granite", {"logits_scaling": 7.0, "intermediate_size": 48, "num_key_value_heads": 1})],
)
def test_neither_rounding_nor_scaling_parts_a_table(model_type, settings, tmp_path):
    model = make(model_type, vocab_size=12_000, tie_word_embeddings=True, **settings)
    path = build(model, tmp_path / "model.mlpackage", ["infer"], SMALLER)
    assert list(tables(path, 32).values()) == [("gather", "conv")]
    with torch.no_grad():
        expected = model(SMALLER[:, :1]).logits.numpy()
    first = {
        "input_ids": np.array([[0]], np.int32),
        "position": np.array([0], np.int32),
        "causal_mask": mask(0, 1).numpy(),
    }
    session = PortableSession(path)
    assert psnr(expected, session.predict(first, session.make_state())["logits"]) >= 60


def test_words_are_looked_up_as_they_stand_in_the_table():
    table = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 13_333, 13_334, 26_667, 26_668, 39_999]])
    assert torch.equal(look_up(ids, table), table[ids])
