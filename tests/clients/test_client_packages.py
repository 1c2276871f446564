"""Packages in the layouts of others: their clients write what transformers writes, and find what they look for."""

from __future__ import annotations

import subprocess

import pytest
import torch
from anemll import KINDS, Client, load
from swift_transformers import LanguageModel
from test_anemll_modules import OTHER, PROMPT, SIZES, WORDS, greedy, make
from transformers import AutoConfig

from optimum_ane import ANEModelForCausalLM
from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.anemll import AnemllANEConfig
from optimum_ane.exporters.cached_decoder.anemll_files import AnemllNames, prefix_of
from optimum_ane.exporters.compile_script import compile_script
from optimum_ane.exporters.swift_transformers import SwiftTransformersANEConfig
from optimum_ane.package.form import ExportForm
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.workflows.export import export

CONTEXT, BATCH = 32, 8
TASK = "text-generation"


@pytest.fixture(scope="module")
def anemll(tmp_path_factory):
    """A package of two chunks, and what transformers writes."""
    directory, model = tmp_path_factory.mktemp("anemll") / "out", make("gemma2")
    expected = greedy(model, PROMPT, 12)
    export(
        model,
        directory,
        task=TASK,
        layout="anemll",
        chunks=2,
        context_length=CONTEXT,
        prefill_length=BATCH,
        quiet=True,
    )
    return directory, expected


@pytest.mark.parametrize("kind", KINDS)
def test_clients_of_anemll_write_what_transformers_writes(anemll, kind):
    directory, expected = anemll
    client = Client(load(directory), kind)
    client.turn(OTHER, 10)  # leaves rows of another text behind
    assert client.turn(PROMPT, 12) == expected


def test_a_package_of_anemll_runs_in_the_driver_too(anemll):
    directory, expected = anemll
    model = ANEModelForCausalLM.from_pretrained(directory)
    answer = model.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False)
    assert answer[0, len(PROMPT) :].tolist() == expected
    assert model(torch.tensor([PROMPT])).logits.shape == (1, len(PROMPT), WORDS)


def test_programs_of_anemll_have_the_names_types_and_states_that_clients_look_for(anemll):
    directory, _ = anemll
    parts = load(directory)
    shapes = {shape.shape[1] for shape in _shapes(directory)}
    assert shapes == {1, BATCH}
    state = {"kv_cache": (4, 1, CONTEXT, 32)}  # of both layers in both chunks
    for chunk in parts.chunks:
        for name, tokens in (("infer", 1), ("prefill", BATCH)):
            session = chunk[name]
            assert {key: (spec.shape, spec.dtype) for key, spec in session.inputs.items()} == {
                "hidden_states": ((1, tokens, 48), "float16"),
                "position_ids": ((tokens,), "int32"),
                "causal_mask": ((1, 1, tokens, CONTEXT), "float16"),
                "current_pos": ((1,), "int32"),
            }
            assert {key: (spec.shape, spec.dtype) for key, spec in session.outputs.items()} == {
                "output_hidden_states": ((1, tokens, 48), "float16")
            }
            assert {key: spec.shape for key, spec in session.states.items()} == state
    assert {(spec.shape, spec.dtype) for spec in parts.head.outputs.values()} == {((1, 1, 13), "float16")}


def _shapes(directory):
    (feature,) = Package(directory / "gemma2_embeddings.mlpackage").spec.description.input
    return feature.type.multiArrayType.enumeratedShapes.shapes


def test_the_script_compiles_every_program(anemll, tmp_path):
    directory, _ = anemll
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "xcrun").write_text('#!/bin/sh\necho "$PWD" "$@" >> ' + f"'{tmp_path}/calls'\n")
    (tools / "xcrun").chmod(0o755)
    subprocess.run([directory / "compile.sh"], check=True, env={"PATH": f"{tools}:/usr/bin:/bin"})
    calls = (tmp_path / "calls").read_text().splitlines()
    packages = sorted(path.name for path in directory.glob("*.mlpackage"))
    assert sorted(calls) == [f"{directory} coremlcompiler compile {name} ." for name in packages]


def test_swift_transformers_writes_what_transformers_writes(tmp_path):
    model = make("llama")
    export(model, tmp_path / "out", task=TASK, layout="swift-transformers", sequence_length=CONTEXT, quiet=True)
    client = LanguageModel(tmp_path / "out" / "model.mlpackage", padding_id=3)
    expected = greedy(model, PROMPT, 6)
    assert client.write(PROMPT, 6) == expected
    assert client.write(PROMPT[:1], 1) == greedy(model, PROMPT[:1], 1)
    assert "'model.mlpackage'" in (tmp_path / "out" / "compile.sh").read_text()
    driver = ANEModelForCausalLM.from_pretrained(tmp_path / "out")
    assert driver(torch.tensor([PROMPT])).logits[0, -1].argmax() == expected[0]


REFUSED = {
    "no multiple": (AnemllANEConfig, {"context_length": 30, "prefill_length": 8}, "choose .*context.length 32"),
    "cache outside": (AnemllANEConfig, {"kv_cache": "io"}, "not as .*kv.cache io asks for"),
    "wide": (AnemllANEConfig, {"precision": "float32"}, "float16 only"),
    "a cache": (SwiftTransformersANEConfig, {"kv_cache": "state"}, "flexible shapes"),
    "two lengths": (SwiftTransformersANEConfig, {"sequence_length": (16, 32)}, "one row of one length"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_client_cannot_take_is_refused(what):
    config_class, options, message = REFUSED[what]
    config = config_class(AutoConfig.for_model("llama", **SIZES), TASK)
    form = ExportForm(task=TASK, **options)
    with pytest.raises((UnsupportedModelError, ShapeError), match=message):
        config.check(config.complete(form, None))


def test_layers_are_shared_out_where_nobody_says_how():
    config = AnemllANEConfig(AutoConfig.for_model("llama", **SIZES | {"num_hidden_layers": 20}), TASK)
    assert config.complete(ExportForm(task=TASK), None).chunks == 1  # below the limit of size
    assert config.complete(ExportForm(task=TASK, chunks="auto"), None).chunks == 2  # of at most 15 layers
    assert config.complete(ExportForm(task=TASK, chunks=1), None).chunks == 1


def test_names_of_one_chunk_and_of_odd_model_types():
    assert AnemllNames("llama", 1).all() == ("llama_embeddings", "llama_FFN_PF_chunk_01of01", "llama_lm_head")
    assert [prefix_of(name) for name in ("gemma3_text", "gpt_neox", "qwen2")] == ["gemma3", "gpt", "qwen2"]
    assert "'a.mlpackage' 'b.mlpackage'" in compile_script(["a.mlpackage", "b.mlpackage"])
