"""Operations that move, cut, join and normalise values in the engine's layout."""

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from layout_programs import check, random, rewrite, seeded
from torch import nn

from optimum_ane.targets.coreml.passes import graph_pass_pipeline

BEFORE, AFTER = seeded(lambda: nn.Linear(12, 12)), seeded(lambda: nn.Linear(12, 12), seed=1)
"""What brings a value into the layout, and what takes it from there."""

CONSTANTS = [random(*shape, seed=seed) for seed, shape in enumerate([(1, 1, 12), (12,), (5, 1)], start=4)]

TOKENS = {
    "first token": lambda x: x[:, 0],
    "last token": lambda x: x[:, -1],
    "some tokens": lambda x: x[:, 1:4],
    "every second token": lambda x: x[:, ::2],
    "one index": lambda x: x.select(1, 2),
    "a token before": lambda x: torch.cat((x[:, :1] * 2, x), 1),
    "a constant token before": lambda x: torch.cat((CONSTANTS[0].expand(x.shape[0], 1, 12), x), 1),
    "tokens in reverse order": lambda x: x.flip(1),
    "mean over tokens": lambda x: x.mean(1),
    "largest of the tokens": lambda x: x.amax(1, keepdim=True),
    "sum over channels": lambda x: x * x.sum(-1, keepdim=True),
    "variance over channels": lambda x: x - x.var(-1, unbiased=False, keepdim=True),
    "halves of the channels": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "unequal parts of the channels": lambda x: torch.cat(x.split((3, 4, 5), -1)[::-1], -1),
    "a gate": lambda x: torch.cat((x[..., :6] * x[..., 6:].sigmoid(), x[..., 6:]), -1),
    "every second channel": lambda x: torch.stack((x[..., 1::2], x[..., ::2]), -1).flatten(-2),
    "softmax over tokens": lambda x: x.softmax(1),
    "softmax over channels": lambda x: x.softmax(-1),
    "norm of each head": lambda x: nn.functional.layer_norm(x.view(*x.shape[:2], 3, 4), (4,)).flatten(2),
    "mean of squares": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
    "heads in another order": lambda x: x.view(*x.shape[:2], 3, 4).transpose(2, 3).reshape(*x.shape[:2], 12),
    "one head of several": lambda x: x.view(*x.shape[:2], 3, 4)[:, :, 1].repeat(1, 1, 3),
    "heads scaled one by one": lambda x: (x.view(*x.shape[:2], 3, 4) * torch.tensor([1.0, 2, 3])[:, None]).flatten(2),
    "heads scaled by numbers of their own": lambda x: (x.view(*x.shape[:2], 3, 4) * x[..., :3].unsqueeze(-1)).flatten(
        2
    ),
    "sum over heads": lambda x: x + x.view(*x.shape[:2], 3, 4).sum(2).repeat(1, 1, 3),
    "tokens padded": lambda x: nn.functional.pad(x, (0, 0, 1, 2)),
    "channels padded": lambda x: nn.functional.pad(x[..., 2:], (1, 1)),
    "tokens in pairs": lambda x: x[:, :4].reshape(x.shape[0], 2, 2, 12).mean(2),
    "batch and tokens merged": lambda x: x.reshape(-1, 12),
    "a choice by a mask": lambda x: torch.where(torch.arange(5)[:, None] < 3, x, torch.tensor(-2.0)),
    "a power and a division": lambda x: (x.abs() + 1).pow(1.5) / (2 + x.square()),
    "a constant for each channel": lambda x: x * CONSTANTS[1] + CONSTANTS[0],
    "a constant for each token": lambda x: x + CONSTANTS[2],
    "operands of unequal ranks": lambda x: x + x[:, 0].unsqueeze(1) + x.mean((0, 1)),
    "added to its own transpose": lambda x: (x @ x.transpose(1, 2) + (x @ x.transpose(1, 2)).transpose(1, 2)) @ x,
    "read by something unknown": lambda x: torch.cumsum(x, 1),
    "doubled": lambda x: torch.cat((x, x, x[:, :1]), 1),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", TOKENS)
def test_tokens(name, batch):
    function = TOKENS[name]
    rewritten = rewrite(lambda x: AFTER(function(BEFORE(x))), random(batch, 5, 12))
    check(rewritten, tolerance=2e-5)
    assert rewritten.operations["conv"] >= 2


@pytest.mark.parametrize("name", ["mean over tokens", "a gate", "first token", "softmax over channels"])
def test_nothing_is_moved_between_two_layers(name):
    function = TOKENS[name]
    check(rewrite(lambda x: AFTER(function(BEFORE(x))), random(2, 5, 12)), reshape=0)


IMAGES = {
    "patches": lambda x: AFTER(x.flatten(2).transpose(1, 2)),
    "patches and back": lambda x: AFTER(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape),
    "channels last": lambda x: AFTER(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "a norm with the channels last": lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (12,)),
    "pooled": lambda x: AFTER(x.mean((2, 3))),
    "pooled by windows": lambda x: nn.functional.avg_pool2d(x, 2),
    "resized": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="nearest"),
    "pixels shuffled": lambda x: nn.functional.pixel_shuffle(x, 2),
    "pixels shuffled back": lambda x: nn.functional.pixel_unshuffle(x, 2),
    "transposed": lambda x: x.transpose(2, 3),
    "rows by rows": lambda x: x @ x.transpose(2, 3),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, batch):
    convolution = seeded(lambda: nn.Conv2d(3, 12, 3, padding=1))
    function = IMAGES[name]
    rewritten = rewrite(lambda x: function(convolution(x)), random(batch, 3, 4, 6))
    check(rewritten)
    assert rewritten.operations["conv"] >= 1


SEQUENCES = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "grouped": {"kernel_size": 3, "groups": 4},
    "without a bias": {"kernel_size": 1, "bias": False},
    "one group a channel": {"kernel_size": 5, "padding": 2, "groups": 12},
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", SEQUENCES)
def test_convolutions_of_sequences(name, batch):
    convolution = seeded(lambda: nn.Conv1d(12, 12, **SEQUENCES[name]))
    rewritten = rewrite(lambda x: AFTER(convolution(BEFORE(x).transpose(1, 2)).transpose(1, 2)), random(batch, 9, 12))
    check(rewritten, conv=3)
    for convolution in rewritten.program.functions["main"].find_ops(op_type="conv"):
        assert len(set(convolution.strides.val)) == 1  # the engine takes no mixed strides


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(12),
        nn.AvgPool1d(2),
        nn.MaxPool1d(3, stride=2, padding=1),
        nn.ConvTranspose1d(12, 12, 3, stride=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_over_sequences(layer):
    layer = seeded(lambda: layer)
    check(rewrite(lambda x: layer(BEFORE(x).transpose(1, 2)), random(1, 9, 12)))


@pytest.mark.parametrize("batch", [1, 2])
def test_groups_of_channels_are_normalised_together(batch):
    convolution, norm = seeded(lambda: nn.Conv2d(3, 12, 3)), seeded(lambda: nn.GroupNorm(6, 12))
    rewritten = rewrite(lambda x: norm(convolution(x)), random(batch, 3, 8, 9))
    check(rewritten, tolerance=3e-5)
    assert rewritten.operations["reduce_mean"] <= 2


def test_groups_of_a_sequence():
    layer = seeded(lambda: nn.GroupNorm(3, 12))
    check(rewrite(lambda x: AFTER(layer(BEFORE(x).transpose(1, 2)).transpose(1, 2)), random(2, 9, 12)), tolerance=3e-5)


def test_a_concat_of_one_value():
    check(rewrite(lambda x: AFTER(torch.cat((BEFORE(x)[:, :1],), 1)), random(1, 5, 12)), conv=2)


def test_outputs_keep_their_names_and_layout():
    def function(x):
        hidden = BEFORE(x)
        return hidden, AFTER(hidden), hidden.view(1, 5, 3, 4).transpose(1, 2)

    rewritten = rewrite(function, random(1, 5, 12))
    check(rewritten, conv=2)
    names = [output.name for output in rewritten.program.functions["main"].outputs]
    assert names == ["out_0", "out_1", "out_2"]


def test_an_output_that_is_an_input_stays_one():
    rewritten = rewrite(lambda x: (x * 1.0 + 0.0, BEFORE(x)), random(1, 5, 12))
    check(rewritten, conv=1)


def test_no_two_values_share_a_name_when_the_program_is_cast():
    # The cast takes values of one name for one, and the pass derives names from those of the original.
    passes = graph_pass_pipeline("float16", is_classifier=False).passes
    layout, cast = (passes.index(f"optimum_ane::{name}") for name in ("to_engine_layout", "carry_layer_norm_rounding"))
    assert "common::dedup_op_and_var_names" in passes[layout:cast]
    program = named_program()
    PASS_REGISTRY["optimum_ane::to_engine_layout"](program)
    assert len(names_of(program)) > len(set(names_of(program)))
    PASS_REGISTRY["common::dedup_op_and_var_names"](program)
    assert len(names_of(program)) == len(set(names_of(program)))


def named_program():
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 5, 12))], opset_version=ct.target.iOS17)
    def program(x):
        normed = mb.layer_norm(x=x, axes=[-1], epsilon=np.float32(1e-3), name="norm")
        return mb.add(x=mb.cumsum(x=normed, axis=1), y=np.float32(1), name="norm_1")

    return program


def names_of(program):
    return [output.name for each in program.functions["main"].operations for output in each.outputs]
