"""Whole models, traced and converted by coremltools, against the same modules run by torch."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from portable_programs import save_module
from torch import nn

from optimum_ane.runtimes.portable import PortableSession

LENGTH = 12


class Norm(nn.Module):
    """Layer norm over the channels of (B, C, 1, S)."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return centred * torch.rsqrt(variance + 1e-5) * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ChannelsFirst(nn.Module):
    """An encoder layer as the Neural Engine likes it, with embeddings and a head."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads, self.width = heads, width // heads
        self.table = nn.Embedding(50, width)
        self.q, self.k, self.v, self.o = (nn.Conv2d(width, width, 1) for _ in range(4))
        self.up, self.down, self.head = nn.Conv2d(width, 64, 1), nn.Conv2d(64, width, 1), nn.Conv2d(width, 3, 1)
        self.first, self.second = Norm(width), Norm(width)

    def forward(self, ids, mask):
        x = self.table(ids).transpose(1, 2).unsqueeze(2)
        bias = (1 - mask.float())[:, :, None, None] * -1e4
        keys = self.k(x).transpose(1, 3).split(self.width, 3)
        mixed = []
        for q, k, v in zip(self.q(x).split(self.width, 1), keys, self.v(x).split(self.width, 1), strict=True):
            scores = torch.einsum("bchq,bkhc->bkhq", q, k) * self.width**-0.5 + bias
            mixed.append(torch.einsum("bkhq,bchk->bchq", scores.softmax(1), v))
        x = self.first(x + self.o(torch.cat(mixed, 1)))
        x = self.second(x + self.down(nn.functional.gelu(self.up(x))))
        return self.head(x)[:, :, 0, 0]


class RowsFirst(nn.Module):
    """The same in the layout of the checkpoints: linear layers, reshaped heads, matmul, torch's own layer norm."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads, self.width = heads, width
        self.table, self.places = nn.Embedding(50, width), nn.Embedding(LENGTH, width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 3)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids, mask):
        x = self.table(ids) + self.places.weight[None]
        # No shape is read off a tensor: coremltools 9 cannot convert that with numpy 2.4.
        parts = self.qkv(x).split(self.width, dim=-1)
        q, k, v = (part.view(2, LENGTH, self.heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-1, -2) / (self.width // self.heads) ** 0.5
        scores = scores.masked_fill((mask == 0)[:, None, None, :], -1e4)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, LENGTH, self.width))
        x = self.first(x)
        x = self.second(x + self.down(torch.relu(self.up(x))))
        return torch.tanh(self.head(x[:, 0]))


class Convolutional(nn.Module):
    """Ordinary convolutions, batch norm and a mean over space."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardtanh(-1.0, 1.0), nn.Conv2d(8, 4, 1))
        self.stem[1].running_mean.uniform_(-0.5, 0.5)
        self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.depth(self.stem(x)).mean((2, 3))


@pytest.fixture
def tokens():
    torch.manual_seed(3)
    mask = torch.ones(2, LENGTH, dtype=torch.int32)
    mask[0, 7:] = 0
    return {"ids": torch.randint(0, 50, (2, LENGTH), dtype=torch.int32), "mask": mask}


def _compare(path, module, inputs, tolerance, precision="program"):
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
    (result,) = PortableSession(path, precision=precision).predict(inputs).values()
    assert np.abs(result - expected).max() < tolerance


@pytest.mark.parametrize("module", [ChannelsFirst, RowsFirst])
@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS16, ct.target.iOS18])
def test_encoder(tmp_path, tokens, module, target):
    torch.manual_seed(0)
    net = module()
    for name, precision, tolerance in (("full", "FLOAT32", 2e-5), ("half", "FLOAT16", 1e-2)):
        path = save_module(
            tmp_path / f"{name}.mlpackage",
            net,
            tokens,
            minimum_deployment_target=target,
            compute_precision=getattr(ct.precision, precision),
        )
        _compare(path, net, tokens, tolerance)


def test_convolutional(tmp_path):
    torch.manual_seed(0)
    net, inputs = Convolutional().eval(), {"x": torch.randn(1, 3, 11, 14)}
    path = save_module(tmp_path / "m.mlpackage", net, inputs, compute_precision=ct.precision.FLOAT32)
    _compare(path, net, inputs, 1e-5)


def test_rounding_is_the_only_difference_of_half_precision(tmp_path, tokens):
    """In float32 mode an fp16 package differs from torch with the same, rounded, weights by accumulation alone."""
    torch.manual_seed(0)
    net = ChannelsFirst()
    for parameter in net.parameters():
        parameter.data = parameter.data.half().float()
    path = save_module(
        tmp_path / "m.mlpackage",
        net,
        tokens,
        compute_precision=ct.precision.FLOAT16,
        outputs=[ct.TensorType("y", dtype=np.float32)],
    )
    # eps and the attention scale are rounded to fp16 as well: what remains is theirs.
    _compare(path, net, tokens, 2e-4, precision="float32")


def test_predictions_do_not_depend_on_each_other(tmp_path, tokens):
    torch.manual_seed(0)
    path = save_module(tmp_path / "m.mlpackage", ChannelsFirst(), tokens)
    session = PortableSession(path)
    first = session.predict(tokens)
    kept = {name: array.copy() for name, array in first.items()}
    other = session.predict({"ids": tokens["ids"].flip(1), "mask": tokens["mask"]})
    again = session.predict(tokens)
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])
        np.testing.assert_array_equal(again[name], kept[name])
        assert (other[name] != kept[name]).any()
