"""Root-mean-square norms, computed as layer norms of x beside −x."""

import pytest
import torch
from layout_programs import check, random, rewrite, seeded
from torch import nn

LAYER = seeded(lambda: nn.Linear(12, 12))
WEIGHT, EPSILONS = random(12, seed=8), random(5, 1, seed=9).abs()


def mean(x):
    return x.pow(2).mean(-1, keepdim=True)


NORMS = {
    "a power": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
    "a square": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3),
    "x times x": lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3),
    "weighted": lambda x: WEIGHT * (x * torch.rsqrt(mean(x) + 1e-3)),
    "weighted from one": lambda x: x * torch.rsqrt(mean(x) + 1e-3) * (1 + WEIGHT),
    "divided": lambda x: x / torch.sqrt(mean(x) + 1e-3) * WEIGHT,
    "by a power": lambda x: x * torch.pow(mean(x) + 1e-3, -0.5),
    "of each head": lambda x: NORMS["a power"](x.view(*x.shape[:2], 3, 4)).flatten(2),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_a_layer_norm(name):
    # 1,000² is beyond float16.
    rewritten = rewrite(lambda x: LAYER(NORMS[name](x)), 1000 * random(1, 5, 12), precision="float16")
    check(rewritten, tolerance=5e-3, reduce_mean=0, rsqrt=0, sqrt=0, pow=0)
    assert rewritten.operations["layer_norm"] in (1, 3)


OTHERS = {
    "a mean over tokens": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3),
    "a cube": lambda x: x * torch.rsqrt((x.pow(3).mean(-1, keepdim=True) + 1e-3).abs()),
    "another numerator": lambda x: (x + 1) * torch.rsqrt(mean(x) + 1e-3),
    "a variance that is read twice": lambda x: x * torch.rsqrt(mean(x) + 1e-3) + mean(x),
    "no epsilon": lambda x: x * torch.rsqrt(mean(x)),
    "an epsilon for each token": lambda x: x * torch.rsqrt(mean(x) + EPSILONS),
    "a root that divides another": lambda x: (x + 1) / torch.sqrt(mean(x) + 1e-3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_such_norm_is_left_alone(name):
    rewritten = rewrite(lambda x: LAYER(OTHERS[name](x)), random(1, 5, 12), precision="float16")
    check(rewritten, tolerance=1e-2, layer_norm=0)


def test_a_program_of_float32_keeps_its_squares():
    check(rewrite(lambda x: LAYER(NORMS["a power"](x)), random(1, 5, 12)), layer_norm=0, rsqrt=1)
