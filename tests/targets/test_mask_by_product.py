"""Padding hidden by a product: the numbers that PyTorch gives, and no choice left; other choices are left alone."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("mask", "a layer with random weights", "apache-2.0", "0", {})
LENGTH, WIDTH = 6, 8


class Layer(nn.Module):
    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        self.mask = mask

    def forward(self, x, attention_mask):
        return self.last(self.mask(self.norm(self.first(x)), attention_mask.bool()[..., None]))


def as_wav2vec2(hidden, mask):
    hidden = hidden.clone()
    hidden[~mask.repeat(1, 1, WIDTH)] = 0
    return hidden


PRODUCTS = {
    "rows set to 0": as_wav2vec2,
    "filled with 0": lambda hidden, mask: hidden.masked_fill(~mask, 0.0),
    "zeros where a mask says so": lambda hidden, mask: torch.where(mask, torch.zeros(()), hidden),
    "zeros elsewhere": lambda hidden, mask: torch.where(mask, hidden, torch.zeros(())),
}
OTHERS = {
    "another number": lambda hidden, mask: hidden.masked_fill(~mask, 1.5),
    "of what may hold NaN": lambda hidden, mask: torch.softmax(hidden.masked_fill(~mask, -torch.inf), -1).masked_fill(
        ~mask, 0.0
    ),
}


def made(mask, path):
    module = Layer(mask).eval()
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "x": torch.randn(1, LENGTH, WIDTH, generator=generator),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 1, 0]], dtype=torch.int32),
    }
    function = ConvertibleFunction("main", lambda: module, inputs, ("y",))
    build_program(
        [function], path, precision="float32", minimum_deployment_target="iOS17", class_labels=None, metadata=METADATA,
        conversion=GRAPH_CONVERSIONS[0],
    )  # fmt: skip
    session = PortableSession(path)
    for row in ([1, 1, 1, 0, 1, 0], [1] * LENGTH, [1, 0, 0, 0, 0, 0]):
        inputs["attention_mask"] = torch.tensor([row], dtype=torch.int32)
        with torch.no_grad():
            expected = module(**inputs).numpy()
        answer = session.predict({name: value.numpy() for name, value in inputs.items()})["y"]
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    (function,) = ct.utils.load_spec(str(path)).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return [operation.type for operation in block.operations]


@pytest.mark.parametrize("kind", PRODUCTS)
def test_zeros_come_of_a_product(kind, tmp_path):
    assert "select" not in made(PRODUCTS[kind], tmp_path / "p.mlpackage")


@pytest.mark.parametrize("kind", OTHERS)
def test_other_choices_stay(kind, tmp_path):
    assert "select" in made(OTHERS[kind], tmp_path / "p.mlpackage")
