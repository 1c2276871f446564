"""What an inspection says of a decoder's functions, against its configuration and what a plan says of it."""

import json
import shutil
from functools import partial

import pytest
import torch
from command_line import run_command
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.analysis.decoder_package import inspect_decoder
from optimum_ane.analysis.decoder_shape import read_decoder
from optimum_ane.analysis.decoder_steps import as_float16
from optimum_ane.analysis.devices import get_device
from optimum_ane.analysis.plan import PlanRequest, make_plan
from optimum_ane.commands.inspect import InspectCommand
from optimum_ane.errors import InputError
from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.targets.coreml.multifunction import merge_functions

CONTEXT, PREFILL = 128, 16
SIZES = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32,
    "num_key_value_heads": 2, "vocab_size": 2000, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
STATE = 2 * 2 * 2 * CONTEXT * 32 * 2


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The functions `infer` and `prefill` over one state, as an export makes them."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES), attn_implementation="eager")
    model.eval().requires_grad_(False)
    folder, parts = tmp_path_factory.mktemp("decoder"), {}
    for name, tokens, answers in (("infer", 1, "logits"), ("prefill", PREFILL, "position")):
        inputs = {
            "input_ids": torch.ones(1, tokens).int(),
            "position": torch.tensor([3]).int(),
            "causal_mask": torch.zeros(1, 1, tokens, CONTEXT),
        }
        make = partial(CachedDecoder, model, CONTEXT, answers)
        function = ConvertibleFunction("main", make, inputs, ["answer"], states={"kv_cache": make().kv_cache.shape})
        parts[name] = folder / f"{name}.mlpackage"
        build_program(
            [function], parts[name], precision="float16", minimum_deployment_target="iOS18", class_labels=None,
            metadata=Metadata("A decoder.", "somebody", "mit", "1", {}),
            conversion=Conversion("trace", is_stock=True, engine_layout=True),
        )  # fmt: skip
    (folder / "out").mkdir()
    merge_functions(parts, folder / "out" / "model.mlpackage", default="infer")
    return folder / "out"


@pytest.fixture(scope="module")
def inspected(package):
    return inspect_decoder(package, "A17 Pro", 100)


@pytest.fixture(scope="module")
def plan():
    request = PlanRequest(get_device("iPhone 15 Pro"), CONTEXT, PREFILL, 100)
    return make_plan(read_decoder(AutoConfig.for_model("llama", **SIZES)), request, "float16", as_float16)


def test_each_function_has_its_tokens_its_weights_and_the_one_cache(inspected):
    functions = {function.name: function for function in inspected.functions}
    assert list(functions) == ["infer", "prefill"]
    assert [function.tokens for function in functions.values()] == [1, PREFILL]
    assert {function.cache_bytes for function in functions.values()} == {STATE}
    assert [function.name for function in inspected.loaded] == ["infer", "prefill"]
    weights = functions["infer"].weight_bytes + functions["prefill"].weight_bytes
    assert inspected.loaded_bytes - weights - STATE == max(each.activation_bytes for each in inspected.loaded)


def test_the_first_token_takes_the_prefills_of_the_prompt_and_one_call(inspected):
    infer, prefill = (function.milliseconds for function in inspected.loaded)
    assert inspected.speed.first_token_ms.typical == pytest.approx(7 * prefill + infer)  # 99 tokens, 16 at once
    assert inspected.speed.tokens_per_second.typical == pytest.approx(1e3 / infer)


def test_a_plan_from_the_configuration_says_what_the_package_holds(inspected, plan):
    infer, prefill = inspected.loaded
    # What is small is kept within the program: a norm's gain, a bias.
    assert plan.memory.infer == pytest.approx(infer.weight_bytes, rel=0.005)
    assert plan.memory.prefill == pytest.approx(prefill.weight_bytes, rel=0.005)
    assert plan.memory.state == STATE
    (told,) = infer.inspections
    assert plan.parts.weights == pytest.approx(told.cost.parts.weights, rel=0.05)
    assert plan.parts.total == pytest.approx(infer.milliseconds, rel=0.1)
    assert plan.speed.prefill_ms == pytest.approx(prefill.milliseconds, rel=0.1)


@pytest.fixture
def run(capsys):
    def command(*line, code=0):
        run_command(InspectCommand, "inspect", line, code)
        output = capsys.readouterr()
        return output.err if code else output.out

    return command


def test_the_command_tells_of_the_functions_and_the_speed(run, package):
    said = " ".join(run(package, "--chip", "A17 Pro", "--prompt-length", 100).split())
    assert "to generate, infer and prefill are loaded: an estimated" in said
    assert "first token of a prompt of 100, an estimate:" in said
    assert "…" not in said.split("a decoder with a cache")[1]
    answer = json.loads(run(package, "--json"))["decoder"]
    assert (answer["speed"], answer["loaded_functions"]) == (None, ["infer", "prefill"])
    assert "--prompt-length is 0" in run(package, "--prompt-length", 0, code=1)
    assert "decoder" not in json.loads(run(package, "--json", "--function", "prefill"))


def test_programs_of_a_chain_count_together(run, package, tmp_path, inspected):
    """The same program twice stands for two halves."""
    for part in ("chunk_01_of_02", "chunk_02_of_02"):
        shutil.copytree(package / "model.mlpackage", tmp_path / f"{part}.mlpackage")
    both = inspect_decoder(tmp_path, "A17 Pro", 100)
    assert both.functions[0].weight_bytes == 2 * inspected.functions[0].weight_bytes
    assert both.functions[0].milliseconds == pytest.approx(2 * inspected.functions[0].milliseconds)
    assert both.functions[0].cache_bytes == 2 * STATE
    said = " ".join(run(tmp_path, "--chip", "A17 Pro").split())
    assert "optimum-cli ane inspect" in said
    assert len(json.loads(run(tmp_path, "--json"))["decoder"]["functions"][0]["programs"]) == 2
    assert "--max-latency-ms" in run(tmp_path, "--chip", "A17 Pro", "--max-latency-ms", "0.0001", code=1)


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="is 0"):
        inspect_decoder("anywhere", prompt_length=0)
