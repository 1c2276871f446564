"""Transposed convolutions whose blocks do not overlap, as a convolution and a shuffle."""

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 5, 3, 4)).astype(np.float32)


def enlarged(size=2, stride=None, has_bias=True, **others):
    weight = RANDOM.standard_normal((5, 3, size, size)).astype(np.float32)
    bias = RANDOM.standard_normal(3).astype(np.float32) if has_bias else None
    stride = stride or size

    @mb.program(input_specs=[mb.TensorSpec(shape=X.shape)], opset_version=ct.target.iOS17)
    def program(x):
        biases = {} if bias is None else {"bias": bias}
        return mb.identity(x=mb.conv_transpose(x=x, weight=weight, strides=[stride] * 2, **biases, **others))

    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(X), torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias), stride
    )
    PASS_REGISTRY["optimum_ane::blocks_by_shuffle"](program)
    return program, expected.numpy()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_the_same_values_without_a_transposed_convolution(size, has_bias, tmp_path):
    program, expected = enlarged(size, has_bias=has_bias)
    types = [operation.op_type for operation in program.functions["main"].operations]
    assert "conv_transpose" not in types
    assert {"conv", "pixel_shuffle"} <= set(types)
    save(convert_program(program, ct.target.iOS17), tmp_path / "p.mlpackage")
    (actual,) = PortableSession(tmp_path / "p.mlpackage").predict({"x": X}).values()
    assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "others",
    [{"stride": 3}, {"size": 3, "stride": 2}, {"pad_type": "same", "size": 2, "stride": 1}],
    ids=["gaps", "overlaps", "stays as large"],
)
def test_others_stay(others):
    program, _ = enlarged(**others)
    assert "conv_transpose" in [operation.op_type for operation in program.functions["main"].operations]
