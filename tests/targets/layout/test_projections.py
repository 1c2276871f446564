"""Products with weights in the engine's layout."""

import pytest
import torch
from layout_programs import OLD_FORMS, check, random, rewrite, seeded
from torch import nn

W = random(6, 5, seed=7)


@pytest.mark.parametrize(
    "shape", [(1, 7, 6), (2, 7, 6), (1, 1, 6), (3, 1, 6), (1, 6), (7, 6), (1, 3, 5, 6), (2, 3, 5, 6)], ids=str
)
def test_a_linear_layer_is_a_convolution(shape):
    layer = seeded(lambda: nn.Linear(6, 5))
    check(rewrite(layer, random(*shape)), conv=1)


def test_values_stay_in_the_layout_between_layers():
    layers = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False)))
    rewritten = rewrite(layers, random(1, 7, 6))
    check(rewritten, conv=2, gelu=1, transpose=2, squeeze=1, expand_dims=1)
    assert rewritten.ranks["gelu"] == {4}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_with_a_constant_is_a_convolution(transposed):
    weight = W.T.contiguous() if transposed else W
    check(rewrite(lambda x: x @ (weight.T if transposed else weight) + 1.5, random(1, 7, 6)), conv=1)


def test_a_weight_of_one_output_and_one_of_one_input():
    check(rewrite(seeded(lambda: nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 3))), random(1, 7, 6)), conv=2)


def test_a_layer_over_each_head():
    layer = seeded(lambda: nn.Linear(4, 4))
    check(rewrite(lambda x: layer(x.view(1, 5, 3, 4)).transpose(1, 2), random(1, 5, 12)), conv=1)


def test_a_vocabulary_is_made_in_parts():
    layer = seeded(lambda: nn.Linear(4, 20_001))
    rewritten = rewrite(layer, random(1, 3, 4))
    check(rewritten, conv=2, concat=1)
    sizes = [op.outputs[0].shape[1] for op in rewritten.program.functions["main"].find_ops(op_type="conv")]
    assert sizes == [10_001, 10_000]


def test_a_computed_weight_is_no_convolution():
    rewritten = rewrite(lambda x, w: x @ w, random(1, 7, 6), random(6, 5))
    assert rewritten.error < 1e-5
    assert not OLD_FORMS & set(rewritten.operations)
    assert rewritten.operations["conv"] == 0


def test_scales_are_folded_into_the_convolution():
    layer = seeded(lambda: nn.Linear(6, 8))
    check(rewrite(lambda x: (layer(x) * 0.25).view(1, 7, 2, 4).transpose(1, 2).softmax(-1), random(1, 7, 6)), mul=0)


def test_the_last_axis_is_moved_to_the_channels():
    layer = seeded(lambda: nn.Linear(7, 5))
    first = seeded(lambda: nn.Linear(6, 4))
    check(rewrite(lambda x: layer(first(x).transpose(1, 2)), random(1, 7, 6)), conv=2)


def test_integers_are_left_alone():
    rewritten = rewrite(lambda x: (x * 3 + 1).float() @ W, torch.arange(42).reshape(1, 7, 6))
    check(rewritten, conv=1)
