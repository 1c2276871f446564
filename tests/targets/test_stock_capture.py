"""Stock modules: recorded as they are, with the names of their modules and of their layers' hidden states."""

import numpy as np
import pytest
import torch
from torch import nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.nn import LayerStack
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("A module.", "somebody", "mit", "7", {})


class Layer(nn.Module):
    """Takes what it works on by name and returns a tuple, as layers of transformers do."""

    def __init__(self):
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, *, hidden_states, mask):
        return hidden_states + self.dense(self.norm(hidden_states)) * mask, None


class Stock(nn.Module):
    """Embeds, with a mask that begins with `new_ones`; what enters its layers comes from a dropout."""

    def __init__(self, declares=True):
        super().__init__()
        self.embed, self.dropout = nn.Embedding(11, 8), nn.Dropout(0.1)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(8, 3)
        if declares:
            self.layer_stack = lambda: LayerStack(tuple(self.layers), self.layers[-1])

    def states(self, ids, mask):
        yield (x := self.embed(ids))
        ones = mask.new_ones(mask.shape, dtype=torch.float32)
        for layer in self.layers:
            x, _ = layer(hidden_states=self.dropout(x), mask=(ones * mask)[:, :, None])
            yield x

    def forward(self, ids, mask):
        *_, last = self.states(ids, mask)
        return self.head(last[:, 0])


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Stock().eval()


INPUTS = {"ids": torch.tensor([[3, 1, 4, 1, 5]]).int(), "mask": torch.tensor([[1, 1, 1, 0, 0]]).int()}


def build(module, conversion, path, precision="float32", class_labels=None):
    function = ConvertibleFunction("main", lambda: module, INPUTS, ("logits",))
    build_program(
        [function],
        path,
        precision=precision,
        minimum_deployment_target="iOS17",
        class_labels=class_labels,
        metadata=METADATA,
        conversion=conversion,
    )
    return path


CONVERSIONS = [
    Conversion(capture, is_stock=True, engine_layout=layout)
    for capture in ("trace", "export")
    for layout in (True, False)
]


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_stock_module_answers_as_in_pytorch(module, conversion, tmp_path):
    session = PortableSession(build(module, conversion, tmp_path / "a.mlpackage"))
    other = {"ids": torch.tensor([[10, 0, 7, 2, 2]]).int(), "mask": torch.tensor([[1, 1, 1, 1, 0]]).int()}
    for inputs in (INPUTS, other):
        answer = session.predict({name: value.numpy() for name, value in inputs.items()})
        expected = module(**inputs).detach().numpy()
        np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("conversion", [each for each in CONVERSIONS if not each.engine_layout])
def test_operations_bear_the_names_of_modules_and_hidden_states(module, conversion, tmp_path):
    session = PortableSession(build(module, conversion, tmp_path / "a.mlpackage"))
    inputs = {name: value.numpy() for name, value in INPUTS.items()}
    answer = session.predict(inputs, intermediates=["hidden_state_*", "layers_1_dense"])
    states = [state.detach().numpy() for state in module.states(*INPUTS.values())]
    found = {name.removesuffix("_cast_fp16"): value for name, value in answer.items()}
    for index, state in enumerate(states):
        np.testing.assert_allclose(found[f"hidden_state_{index}"], state, atol=1e-5)
    layer = module.layers[1]
    expected = layer.dense(layer.norm(torch.from_numpy(states[1]))).detach().numpy()
    np.testing.assert_allclose(found["layers_1_dense"], expected, atol=1e-5)


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_stock_module_need_not_declare_its_layers_and_may_be_a_classifier(conversion, tmp_path):
    torch.manual_seed(1)
    plain = Stock(declares=False).eval()
    path = build(plain, conversion, tmp_path / "a.mlpackage", "float16", ["a", "b", "c"])
    answer = PortableSession(path).predict({name: value.numpy() for name, value in INPUTS.items()})
    logits = plain(**INPUTS).detach()
    assert answer["classLabel"] == "abc"[logits.argmax()]
    probabilities = list(answer["classLabel_probs"].values())
    np.testing.assert_allclose(probabilities, logits.softmax(1)[0], atol=2e-3)


class Untranslatable(nn.Module):
    def forward(self, ids, mask):
        return torch.special.bessel_j0(ids.float())


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"core": Untranslatable()})

    def forward(self, ids, mask):
        return self.inner["core"](ids, mask)


def test_the_error_names_the_module_where_it_arose(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"cannot convert inner\.core of the module as it is: .*bessel_j0"):
        build(Holder(), Conversion("trace", is_stock=True), tmp_path / "a.mlpackage")


class Failing(nn.Module):
    def forward(self, ids, mask):
        raise ZeroDivisionError("of no use")


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_what_cannot_be_captured_or_converted_is_refused_with_the_reason(conversion, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"coremltools .* cannot convert .*bessel_j0"):
        build(Untranslatable(), conversion, tmp_path / "a.mlpackage")
    with pytest.raises(UnsupportedModelError, match=r"Failing cannot be captured by torch.*ZeroDivisionError: of no"):
        build(Failing(), conversion, tmp_path / "a.mlpackage")
