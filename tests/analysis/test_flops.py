"""Arithmetic by operation, against numbers computed by hand and against PyTorch's own counter."""

import coremltools as ct
import numpy as np
import pytest
import torch
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813
from tiny_models import make_inputs, make_original
from torch.utils.flop_counter import FlopCounterMode

from optimum_ane.analysis.flops import count_flops
from optimum_ane.analysis.operations import read_program

PRODUCTS = ("conv", "linear", "matmul", "einsum")


def half(*shape):
    return np.ones(shape, np.float16)


def flops_of(build, target=ct.target.iOS17, **inputs):
    return program_of(build, target, **inputs).operations[-1].flops


CASES = {
    # 2 · (4 · 16 · 16 outputs) · 8 channels · 3 · 3
    "conv": (lambda x: mb.conv(x=x, weight=half(4, 8, 3, 3), pad_type="same"), "fp16 1 8 16 16", 147456),
    # 2 · (8 · 16 · 16) · 1 channel of the group · 3 · 3
    "depthwise conv": (
        lambda x: mb.conv(x=x, weight=half(8, 1, 3, 3), groups=8, pad_type="same"),
        "fp16 1 8 16 16",
        36864,
    ),
    # 2 · (2 · 8 · 8 outputs) · 8 channels · 3 · 3
    "strided conv": (
        lambda x: mb.conv(x=x, weight=half(2, 8, 3, 3), strides=[2, 2], pad_type="same"),
        "fp16 1 8 16 16",
        18432,
    ),
    # 2 · (8 · 16 · 16 inputs) · 4 channels · 2 · 2
    "conv_transpose": (
        lambda x: mb.conv_transpose(x=x, weight=half(8, 4, 2, 2), strides=[2, 2]),
        "fp16 1 8 16 16",
        65536,
    ),
    # 2 · 5 rows · 4 outputs · 8 inputs
    "linear": (lambda x: mb.linear(x=x, weight=half(4, 8), bias=half(4)), "fp16 5 8", 320),
    # 2 · 3 matrices · 5 · 5 · 8
    "matmul": (lambda x: mb.matmul(x=x, y=x, transpose_y=True), "fp16 3 5 8", 1200),
    # the contracted axis is the last but one: 2 · 3 matrices · 8 · 8 · 5
    "matmul transposed": (lambda x: mb.matmul(x=x, y=x, transpose_x=True), "fp16 3 5 8", 1920),
    # 2 · queries 4 · keys 6 · channels 8
    "einsum": (
        lambda x: mb.einsum(values=(x, half(1, 8, 1, 4)), equation="bkhc,bchq->bkhq"),
        "fp16 1 6 1 8",
        384,
    ),
    # mean, difference, square, mean, quotient, gain, bias
    "layer_norm": (lambda x: mb.layer_norm(x=x, axes=[1]), "fp16 1 8 1 4", 224),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), "fp16 1 8 1 4", 160),
    # 7 · 7 windows of 3 · 3, for each of 2 channels
    "max_pool": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="valid"),
        "fp16 1 2 15 15",
        882,
    ),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[1]), "fp16 1 8 4", 32),
    "add": (lambda x: mb.add(x=x, y=half(8, 1)), "fp16 1 1 4", 32),
    "gelu": (lambda x: mb.gelu(x=x), "fp16 1 8 4", 32),
    "transpose": (lambda x: mb.transpose(x=x, perm=[2, 0, 1]), "fp16 1 8 4", 0),
    "gather": (lambda x: mb.gather(x=half(9, 8), indices=x, axis=0), "int32 1 4", 0),
    # 6 steps · 1 row · 2 · (4 gates · 4 · 8 + 4 gates · 4 · 4)
    "lstm": (
        lambda x: mb.lstm(
            x=x, initial_h=half(1, 4), initial_c=half(1, 4), weight_ih=half(16, 8), weight_hh=half(16, 4)
        )[0],
        "fp16 6 1 8",
        2304,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_counts_what_it_does_by_hand(name):
    build, given, expected = CASES[name]
    assert flops_of(build, x=given) == expected


def test_attention_counts_both_products_the_mask_and_the_softmax():
    shapes = {"query": [(1, 2, 6, 8)], "key": [(1, 2, 5, 8)], "value": [(1, 2, 5, 3)], "attn_mask": [(6, 5)]}
    # 60 scores: 2 · 8 for the first product, 5 for the softmax, 1 for the mask, 2 · 3 for the second product
    assert count_flops("scaled_dot_product_attention", shapes, [(1, 2, 6, 3)], {}) == 60 * (16 + 5 + 1 + 6)


def test_an_unknown_extent_counts_as_one():
    assert count_flops("linear", {"x": [(None, 8)], "weight": [(4, 8)]}, [(None, 4)], {}) == 64


def test_an_equation_that_says_nothing_is_no_error():
    assert count_flops("einsum", {"values": [(2, 3)]}, [(2, 3)], {"equation": "garbage"}) >= 0
    assert count_flops("einsum", {}, [(2, 3)], {}) >= 0


@pytest.mark.parametrize(("name", "task"), [("distilbert", "text-classification"), ("bert", "fill-mask")])
def test_the_products_of_an_export_are_those_that_pytorch_counts_in_the_original(name, task, tiny_package):
    original = make_original(name, task)
    original.set_attn_implementation("eager")  # of the fused one PyTorch counts nothing on a CPU
    inputs = make_inputs(original, rows=1, length=16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        original(**inputs)
    program = read_program(tiny_package(name, task) / "model.mlpackage")
    assert sum(o.flops for o in program.operations if o.type in PRODUCTS) == counter.get_total_flops()
