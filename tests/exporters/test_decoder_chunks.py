"""Decoders cut by their layers: the chain of chunks against the whole, in PyTorch, from files and as programs."""

from functools import partial

import numpy as np
import pytest
import torch
from test_cached_decoder import CONTEXT, DECODERS, OLD_DECODERS, PREFILL, STEPS, TOKENS, answers_of, make, mask
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.original import make_empty_model
from optimum_ane.checkpoints.weights import open_stored_weights
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.chunk_plan import plan_chunks
from optimum_ane.exporters.cached_decoder.chunk_weights import fill_chunk
from optimum_ane.exporters.cached_decoder.chunks import Chunk, DecoderChunk, find_decoder_layers
from optimum_ane.package.form import AS_LIMITS_ALLOW
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.psnr import psnr

TASK = "text-generation"


@torch.no_grad()
def answers_of_chain(chunks):
    """A prefill and steps after it, through all chunks, over rows of a text before."""
    for chunk in chunks:
        chunk.kv_cache.fill_(7.0)

    def run(values, position):
        for chunk in chunks:
            values = chunk(values, torch.tensor([position]), mask(position, values.shape[1]))
        return values

    logits = [
        run(TOKENS[:, :PREFILL], 0),
        *(run(TOKENS[:, at : at + 1], at) for at in range(PREFILL, PREFILL + STEPS)),
    ]
    return torch.cat(logits, 1).numpy()


@pytest.mark.parametrize("model_type", [*DECODERS, *OLD_DECODERS])
def test_a_chain_of_chunks_answers_as_the_whole(model_type):
    model = make(model_type)
    before = {name: id(module) for name, module in model.named_modules()}
    layers = find_decoder_layers(model)
    plan = plan_chunks(model, layers, 3)
    assert [(chunk.first, chunk.last) for chunk in plan] == [(0, 1), (1, 2), (2, 3)]
    assert (
        psnr(answers_of(model), answers_of_chain([DecoderChunk(model, layers, chunk, CONTEXT) for chunk in plan]))
        >= 120
    )
    assert {name: id(module) for name, module in model.named_modules()} == before


def test_a_chunk_holds_its_own_weights_only():
    model = make("llama")
    layers = find_decoder_layers(model)
    chunk = DecoderChunk(model, layers, Chunk(1, 2, 3), CONTEXT)
    own = {f"model.{name}" for name, _ in model.named_parameters() if name.startswith("model.layers.1.")}
    assert {name for name, _ in chunk.named_parameters()} == own | {"model.model.norm.weight"}
    assert chunk.kv_cache.shape == (2, 1, CONTEXT, 16)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "falcon"])
def test_weights_come_from_files_a_chunk_at_a_time(model_type, tmp_path):
    make(model_type).bfloat16().save_pretrained(tmp_path, max_shard_size="40KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    config = AutoConfig.from_pretrained(tmp_path)
    weights = open_stored_weights(str(tmp_path), TASK, config, HubOptions())
    asked = []

    class Counting(dict):
        def __getitem__(self, name):
            asked.append(name)
            return weights[name]

    empty = make_empty_model(TASK, config, HubOptions()).eval()
    layers = find_decoder_layers(empty)
    chunks = [DecoderChunk(empty, layers, chunk, CONTEXT) for chunk in plan_chunks(empty, layers, 2)]
    for chunk in chunks:
        asked.clear()
        fill_chunk(chunk, Counting.fromkeys(weights))
        outside = [
            f"{layers.path}.{index}." for index in range(3) if not chunk.chunk.first <= index < chunk.chunk.last
        ]
        assert asked
        assert not [name for name in asked if name.startswith(tuple(outside))]
        assert all(parameter.is_meta for parameter in empty.parameters())
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    assert psnr(answers_of(whole), answers_of_chain(chunks)) >= 120


def test_chunks_are_as_equal_as_can_be_and_within_the_limits():
    sizes = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 16, "vocab_size": 128_256}
    config = AutoConfig.for_model(
        "llama", hidden_size=2048, intermediate_size=8192, head_dim=64, tie_word_embeddings=True, **sizes
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).eval()
    layers = find_decoder_layers(model)
    assert (layers.path, layers.count, layers.heads, layers.width, layers.hidden_size) == (
        "model.layers", 16, 8, 64, 2048,
    )  # fmt: skip
    # 525 MB of table and head, 122 MB a layer.
    bounds = [(chunk.first, chunk.last) for chunk in plan_chunks(model, layers)]
    assert bounds == [(0, 2), (2, 8), (8, 14), (14, 16)]
    with pytest.raises(UnsupportedModelError, match="17 chunks of 16 layers"):
        plan_chunks(model, layers, 17)
    small = AutoConfig.for_model("llama", hidden_size=32, head_dim=8, **sizes | {"num_hidden_layers": 31})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small).eval()
    assert len(plan_chunks(model, find_decoder_layers(model))) == 1
    plan = plan_chunks(model, find_decoder_layers(model), AS_LIMITS_ALLOW)
    assert max(chunk.last - chunk.first for chunk in plan) <= 15
    assert len(plan) == 3


def test_a_model_whose_layers_are_of_several_kinds_is_refused():
    model = make("llama")
    layer = model.model.layers[2]
    layer.__class__ = type("AnotherLayer", (type(layer),), {})
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM has no list of layers"):
        find_decoder_layers(model)


def test_programs_of_chunks(tmp_path):
    model = make("llama")
    layers = find_decoder_layers(model)
    programs = []
    for number, chunk in enumerate(plan_chunks(model, layers, 2)):
        functions = []
        for name, length in (("infer", 1), ("score", PREFILL)):
            make_module = partial(DecoderChunk, model, layers, chunk, CONTEXT)
            first = TOKENS[:, :length].int() if chunk.is_first else torch.randn(1, length, 48).half()
            entering = "input_ids" if chunk.is_first else "hidden_states"
            leaving = "logits" if chunk.is_last else "output_hidden_states"
            inputs = {entering: first, "position": torch.tensor([3]).int(), "causal_mask": mask(3, length).half()}
            states = {"kv_cache": make_module().kv_cache.shape}
            functions.append(ConvertibleFunction(name, make_module, inputs, [leaving], states))
        path = tmp_path / f"{number}.mlpackage"
        build_program(
            functions,
            path,
            precision="float16",
            minimum_deployment_target="iOS18",
            class_labels=None,
            metadata=Metadata("A decoder.", "somebody", "mit", "1", {}),
            conversion=Conversion("trace", is_stock=True, engine_layout=True),
        )
        sessions = {name: PortableSession(path, name) for name in ("infer", "score")}
        programs.append((entering, leaving, sessions, sessions["infer"].make_state()))

    def run(function, at, length):
        values = TOKENS[:, at : at + length].numpy().astype(np.int32)
        for entering, leaving, sessions, state in programs:
            inputs = {
                entering: values,
                "position": np.array([at], np.int32),
                "causal_mask": mask(at, length).numpy().astype(np.float16),
            }
            values = sessions[function].predict(inputs, state)[leaving]
        return values

    logits = [run("score", 0, PREFILL), *(run("infer", at, 1) for at in range(PREFILL, PREFILL + STEPS))]
    assert psnr(answers_of(model), np.concatenate(logits, 1)) >= 60
