"""One package from the modules of its functions: names, types, states, metadata, and what is left behind."""

import gc
import tempfile
import weakref
from dataclasses import replace
from functools import partial

import coremltools as ct
import numpy as np
import pytest
import torch
from stored_programs import stored_arrays
from torch import nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.nn import LayerStack
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.metadata import Metadata

WIDTH = 8
METADATA = Metadata("A module.", "somebody", "mit", "7", {"number": 3, "nothing": None, "text": "é"})


class Projections(nn.Module):
    """Two convolutions over (B, C, 1, S), scaled by a vector of float16 or float32, at an integer's position."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)])
        self.output = nn.Identity()

    def layer_stack(self):
        return LayerStack(tuple(self.layers), self.output)

    def forward(self, x, scale, position):
        for layer in self.layers:
            x = layer(x)
        return self.output(x) * scale, x.mean(dim=1) + position


class Accumulator(nn.Module):
    """Adds what it is given to what it was given before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, WIDTH, 1, 4, dtype=torch.float16))
        self.layer = nn.Conv2d(WIDTH, WIDTH, 1)
        self.output = nn.Identity()
        self.length = 4

    def at(self, length):
        self.length = length
        return self

    def layer_stack(self):
        return LayerStack((self.layer,), self.output)

    def forward(self, x):
        x = self.output(self.layer(x))
        self.total[:, :, :, : self.length] = self.total[:, :, :, : self.length] + x.half()
        return self.total.float() * 1.0


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(WIDTH, 3, 1)
        self.output = nn.Identity()

    def layer_stack(self):
        return LayerStack((self.layer,), self.output)

    def forward(self, x):
        return self.output(self.layer(x))[:, :, 0, 0]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Projections().eval()


def function_of(module, length=4, name="main", dtype=torch.float16):
    generator = torch.Generator().manual_seed(length)
    inputs = {
        "x": torch.randn(1, WIDTH, 1, length, generator=generator).to(dtype),
        "scale": torch.randn(1, WIDTH, 1, 1, generator=generator),
        "position": torch.tensor([5]),
    }
    return ConvertibleFunction(name, lambda: module, inputs, ("scaled", "mean"), meanings={"x": "What comes in."})


def build(functions, path, **options):
    defaults = {"precision": "float16", "minimum_deployment_target": "iOS18", "class_labels": None}
    build_program(functions, path, metadata=METADATA, **(defaults | options))
    return path


def test_inputs_and_outputs_have_the_names_and_types_of_the_examples(module, tmp_path):
    session = PortableSession(build([function_of(module)], tmp_path / "a.mlpackage"))
    assert {name: (spec.shape, spec.dtype) for name, spec in session.inputs.items()} == {
        "x": ((1, WIDTH, 1, 4), "float16"),
        "scale": ((1, WIDTH, 1, 1), "float32"),
        "position": ((1,), "int32"),
    }
    assert list(session.outputs) == ["scaled", "mean"]
    function = function_of(module)
    inputs = {name: value.numpy() for name, value in function.inputs.items()}
    inputs["position"] = inputs["position"].astype(np.int32)
    answer = session.predict(inputs)
    expected = module(function.inputs["x"].float(), function.inputs["scale"], function.inputs["position"])
    for name, value in zip(("scaled", "mean"), expected, strict=True):
        np.testing.assert_allclose(answer[name], value.detach().numpy(), atol=2e-2)


def test_hidden_states_have_their_names(module, tmp_path):
    session = PortableSession(build([function_of(module)], tmp_path / "a.mlpackage"))
    inputs = {name: value.numpy() for name, value in function_of(module).inputs.items()}
    inputs["position"] = inputs["position"].astype(np.int32)
    answer = session.predict(inputs, intermediates=["hidden_state_*"])
    assert sum(name.startswith("hidden_state_") for name in answer) >= 2


@pytest.mark.parametrize("lengths", [(4,), (4, 6, 9)])
def test_metadata_and_meanings_are_there(module, tmp_path, lengths):
    names = ["main"] if len(lengths) == 1 else [f"of_{length}" for length in lengths]
    functions = [function_of(module, length, name) for length, name in zip(lengths, names, strict=True)]
    functions[-1] = replace(functions[-1], meanings={"x": "Another meaning.", "absent": "Of nothing."})
    description = Package(build(functions, tmp_path / "a.mlpackage")).spec.description
    metadata = description.metadata
    assert (metadata.shortDescription, metadata.author) == ("A module.", "somebody")
    assert (metadata.license, metadata.versionString) == ("mit", "7")
    entries = {name: value for name, value in metadata.userDefined.items() if not name.startswith("com.github.apple")}
    assert entries == {"number": "3", "text": "é"}
    assert metadata.userDefined["com.github.apple.coremltools.version"] == ct.__version__
    described = list(description.functions) or [description]
    assert [d.input[0].shortDescription for d in described][-1] == "Another meaning."
    if len(lengths) > 1:
        assert [d.input[0].shortDescription for d in described][:-1] == ["What comes in."] * (len(lengths) - 1)
        assert description.defaultFunctionName == "of_4"


def test_several_functions_share_their_weights(module, tmp_path):
    one = build([function_of(module)], tmp_path / "one.mlpackage")
    many = build([function_of(module, n, f"of_{n}") for n in (4, 6, 9)], tmp_path / "many.mlpackage")
    assert set(stored_arrays(many)) == set(stored_arrays(one))
    assert len(stored_arrays(many)) == len(set(stored_arrays(many)))
    session = PortableSession(many, "of_6")
    assert session.inputs["x"].shape == (1, WIDTH, 1, 6)
    inputs = {name: value.numpy() for name, value in function_of(module, 6).inputs.items()}
    inputs["position"] = inputs["position"].astype(np.int32)
    (expected, _) = module(*(v.float() for v in function_of(module, 6).inputs.values()))
    np.testing.assert_allclose(session.predict(inputs)["scaled"], expected.detach().numpy(), atol=2e-2)


def test_functions_share_a_state(tmp_path):
    torch.manual_seed(0)
    module = Accumulator().eval()
    states = {"total": (1, WIDTH, 1, 4)}
    functions = [
        ConvertibleFunction(name, partial(module.at, n), {"x": torch.zeros(1, WIDTH, 1, n).half()}, ("sum",), states)
        for name, n in (("prefill", 4), ("infer", 1))
    ]
    path = build(functions, tmp_path / "a.mlpackage")
    prefill = PortableSession(path)
    infer = prefill.function("infer")
    assert prefill.function_name == "prefill"
    state = prefill.make_state()
    x = np.random.default_rng(0).normal(size=(1, WIDTH, 1, 4)).astype(np.float16)
    prefill.predict({"x": x}, state)
    answer = infer.predict({"x": x[..., :1]}, state)["sum"]
    with torch.no_grad():
        once = module.layer(torch.from_numpy(x).float()).numpy()
    once[..., 0] *= 2
    np.testing.assert_allclose(answer, once, atol=2e-2)
    assert np.abs(once).max() > 1


def test_class_labels_are_given_with_their_probabilities(tmp_path):
    torch.manual_seed(0)
    module = Classifier().eval()
    x = torch.randn(1, WIDTH, 1, 1)
    meanings = {"classLabel": "What it is."}
    function = ConvertibleFunction("main", lambda: module, {"x": x}, ("logits",), meanings=meanings)
    path = build([function], tmp_path / "a.mlpackage", class_labels=["red", "green", "blue"])
    answer = PortableSession(path).predict({"x": x.numpy()})
    expected = module(x)[0].softmax(0)
    assert answer["classLabel"] == ["red", "green", "blue"][int(expected.argmax())]
    probabilities = answer["classLabel_probs"]
    np.testing.assert_allclose([probabilities[n] for n in ("red", "green", "blue")], expected.detach(), atol=5e-3)
    features = {feature.name: feature.shortDescription for feature in Package(path).spec.description.output}
    assert features["classLabel"] == "What it is."


def test_float32_stays_float32(module, tmp_path):
    path = build([function_of(module, dtype=torch.float32)], tmp_path / "a.mlpackage", precision="float32")
    session = PortableSession(path)
    assert session.outputs["scaled"].dtype == "float32"
    weights = [data for _, data in stored_arrays(path)]
    assert module.layers[0].weight.detach().numpy().tobytes() in weights


def test_several_functions_for_an_older_system_are_refused_before_any_work(tmp_path):
    def make():
        raise AssertionError("no module is needed to refuse")

    functions = [ConvertibleFunction(name, make, {}, ()) for name in ("a", "b")]
    with pytest.raises(UnsupportedModelError, match=r"need iOS18 and the deployment target is macOS14"):
        build(functions, tmp_path / "a.mlpackage", minimum_deployment_target="macOS14")


def test_modules_are_dropped_one_after_another_and_nothing_is_left_on_disk(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    alive, most = weakref.WeakSet(), []

    def make():
        gc.collect()
        most.append(len(alive))
        module = Projections().eval()
        alive.add(module)
        return module

    functions = [replace(function_of(None, n, f"of_{n}"), make_module=make) for n in (4, 6, 9)]
    (tmp_path / "out").mkdir()
    build(functions, tmp_path / "out" / "a.mlpackage")
    gc.collect()
    assert most == [0, 0, 0]
    assert not alive
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mlpackage"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_an_application_froze_stays_frozen_and_nothing_else(module, tmp_path):
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    build([function_of(module)], tmp_path / "a.mlpackage")
    assert gc.get_freeze_count() == 0
    gc.freeze()
    before = gc.get_freeze_count()
    build([function_of(module)], tmp_path / "b.mlpackage")
    assert 0.99 * before < gc.get_freeze_count() <= before  # some are gone since, none came
    if not frozen:
        gc.unfreeze()
