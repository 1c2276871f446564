"""Operations are named by the module that computes them, and a name does not lie."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_models import make_inputs, make_original
from torch import nn

from optimum_ane import convert_to_ane
from optimum_ane.nn import LayerStack
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("A module.", "somebody", "mit", "1")
VALID = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")  # MIL.proto
LENGTH = 16


def build(path, *functions, precision="float32", target="iOS18", class_labels=None):
    build_program(
        functions, path, precision=precision, minimum_deployment_target=target, class_labels=class_labels,
        metadata=METADATA,
    )  # fmt: skip
    return path


def operations(path, function="main"):
    stored = Package(path).spec.mlProgram.functions[function]
    return stored.block_specializations[stored.opset].operations


def names_of(path, function="main"):
    return [output.name for each in operations(path, function) if each.type != "const" for output in each.outputs]


def tiny(name, task="text-classification", length=LENGTH, **settings):
    """A tiny original's module, and example inputs as the package takes them."""
    original = make_original(name, task, **settings)
    inputs = {key: value[:1].int() for key, value in make_inputs(original, rows=2, length=length).items()}
    return convert_to_ane(original, task=task), inputs


def function_of(module, inputs, name="main"):
    return ConvertibleFunction(name, lambda: module, inputs, ("logits",))


def module_results(module, inputs):
    """What each submodule that runs once and gives one tensor gives, by its path with `_` for dots."""
    results, times = {}, Counter()

    def keep(path, result):
        times[path] += 1
        results[path] = result

    hooks = [
        each.register_forward_hook(lambda _module, _inputs, result, path=path: keep(path, result))
        for path, each in module.named_modules()
        if path
    ]
    with torch.no_grad():
        module(*inputs.values())
    for hook in hooks:
        hook.remove()
    return {
        path.replace(".", "_"): result.numpy()
        for path, result in results.items()
        if times[path] == 1 and isinstance(result, torch.Tensor)
    }


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "modernbert"])
def test_a_value_with_a_modules_name_is_what_the_module_gives(name, tmp_path):
    module, inputs = tiny(name)
    path = build(tmp_path / "a.mlpackage", function_of(module, inputs))
    expected = module_results(module, inputs)
    answer = PortableSession(path, precision="float32").predict(
        {name: value.numpy() for name, value in inputs.items()}, intermediates=["*"]
    )
    found = expected.keys() & answer.keys()
    assert len(found) >= 14, sorted(expected)
    for each in found:
        np.testing.assert_allclose(answer[each], expected[each], atol=3e-4, rtol=3e-4, err_msg=each)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("albert", "float16"),
        ("bert", "float32"),
        ("deberta-v2", "float16"),
        ("modernbert", "float16"),
        ("mpnet", "float16"),
    ],
)
def test_all_names_are_valid_and_unique_and_all_layers_say_which_module_they_are(name, precision, tmp_path):
    module, inputs = tiny(name)
    path = build(tmp_path / "a.mlpackage", function_of(module, inputs), precision=precision)
    every = [output.name for each in operations(path) for output in each.outputs] + [*inputs]
    assert all(VALID.fullmatch(each) for each in every)
    assert len(set(every)) == len(every)
    assert not [each for each in every if re.match(r"(var|op|x|input|scores)_\d", each)]
    paths = [path.replace(".", "_") for path, _ in module.named_modules() if path]
    of_no_module = [each for each in names_of(path) if not each.startswith(tuple(paths))]
    kept = ("hidden_state_", "model_", "logits")
    assert all(each.startswith(kept) for each in of_no_module), of_no_module
    # Mask, pooling and the last change of shape are the model's own, whatever the number of layers; DeBERTa's mask has
    # the most operations.
    assert sum(each.startswith("model_") for each in of_no_module) <= 18, of_no_module


def test_a_projection_has_the_name_of_its_weight(tmp_path):
    """Weights bear the checkpoint's names, so that a projection's shows whether its own is right."""
    module, inputs = tiny("bert")
    path = build(tmp_path / "a.mlpackage", function_of(module, inputs), precision="float16")
    projections = [each for each in operations(path) if each.type == "conv"]
    assert len(projections) == 2 * 6 + 2
    for each in projections:
        weight = each.inputs["weight"].arguments[0].name
        assert weight.split("_weight")[0] == each.outputs[0].name
        assert each.inputs["strides"].arguments[0].name == "conv_strides"  # one for all


def test_names_do_not_depend_on_precision_or_labels(tmp_path):
    module, inputs = tiny("bert")
    function = function_of(module, inputs)
    path = build(tmp_path / "a.mlpackage", function, precision="float16", target="iOS16")
    labelled = build(tmp_path / "b.mlpackage", function, target="iOS16", class_labels=["a", "b"])
    added = {"probabilities", "classLabel", "classLabel_probs"}
    without_suffix = [each.removesuffix("_cast_fp16") for each in names_of(path)]
    assert [each for each in names_of(labelled) if each not in added] == without_suffix


def test_functions_of_several_lengths_use_the_same_names(tmp_path):
    functions = []
    for length in (8, 16):
        module, inputs = tiny("distilbert", length=length)
        functions.append(function_of(module, inputs, f"seq_{length}"))
    path = build(tmp_path / "a.mlpackage", *functions)
    assert names_of(path, "seq_8") == names_of(path, "seq_16")
    assert "distilbert_transformer_layer_1_attention_q_lin" in names_of(path, "seq_8")


class Repeated(nn.Module):
    """One layer twice, in a sequence of numbers; several results, a state, a table, and names that clash."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU())
        self.layer_0 = nn.Conv2d(4, 4, 1)
        self.output = nn.Identity()
        self.register_buffer("total", torch.zeros(1, 4, 1, 6, dtype=torch.float16))

    def layer_stack(self):
        return LayerStack((self.layer,), self.output)

    def forward(self, logits_0):
        left, right = self.layer(self.layer(logits_0)).split(2, dim=1)
        x = self.output(torch.cat((right, left), dim=1))
        self.total[:] = self.total + self.layer_0(x).half()
        return self.total.float() * torch.outer(torch.arange(4.0), torch.arange(6.0))[None, :, None]


def test_what_runs_twice_is_numbered_and_states_inputs_and_outputs_keep_their_names(tmp_path):
    torch.manual_seed(0)
    inputs = {"logits_0": torch.randn(1, 4, 1, 6)}
    function = ConvertibleFunction(
        "main", lambda: Repeated().eval(), inputs, ("scaled",), states={"total": (1, 4, 1, 6)}
    )
    path = build(tmp_path / "a.mlpackage", function, precision="float16")
    session = PortableSession(path)
    assert (list(session.inputs), list(session.outputs), list(session.states)) == (
        ["logits_0"], ["scaled"], ["total"]
    )  # fmt: skip
    names = names_of(path)
    assert {"layer_0_0", "layer_0_1", "layer_0_2", "model_split_0", "model_split_1"} <= {*names}, names
    assert len({*names}) == len(names)
