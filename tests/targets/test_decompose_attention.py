"""iOS 18's attention written out: the same answer, whatever the mask is."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

HEADS, QUERIES, KEYS, WIDTH = 2, 3, 5, 4
OPEN = np.array([[True] * 5, [True, False, True, False, True], [False, False, True, True, True]])
MASKS = {
    "none": lambda x: None,
    "constant booleans": lambda x: OPEN,
    "constant numbers": lambda x: np.where(OPEN, 0, -9).astype(np.float32),
    "computed booleans": lambda x: mb.greater(x=mb.reduce_sum(x=x, axes=[3], keep_dims=False), y=-2.0),
    "computed numbers": lambda x: mb.reduce_sum(x=x, axes=[3], keep_dims=False),
}


@pytest.mark.parametrize("kind", MASKS)
def test_attention_by_parts(kind, tmp_path):
    shapes = [(1, HEADS, n, WIDTH) for n in (QUERIES, KEYS, KEYS)] + [(HEADS, QUERIES, KEYS, 3)]

    @mb.program(input_specs=[mb.TensorSpec(shape=shape) for shape in shapes], opset_version=ct.target.iOS18)
    def program(q, k, v, m):
        m = mb.identity(x=m)
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASKS[kind](m), name="y")

    before = PortableSession(save(convert_program(program, ct.target.iOS18), tmp_path / "before.mlpackage"))
    PASS_REGISTRY["optimum_ane::decompose_attention"](program)
    program.validate()
    kinds = [operation.op_type for operation in program.functions["main"].operations]
    assert "scaled_dot_product_attention" not in kinds
    assert kinds.count("matmul") == 2
    assert program.functions["main"].outputs[0].name == "y"
    after = PortableSession(save(convert_program(program, ct.target.iOS18), tmp_path / "after.mlpackage"))
    generator = np.random.default_rng(0)
    inputs = {name: generator.standard_normal(spec.shape).astype(np.float32) for name, spec in before.inputs.items()}
    expected = before.predict(inputs)["y"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(after.predict(inputs)["y"], expected, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_half(tmp_path):
    spec = mb.TensorSpec(shape=(1, 2, 3, 4), dtype=types.fp16)

    @mb.program(input_specs=[spec], opset_version=ct.target.iOS18)
    def program(x):
        return mb.scaled_dot_product_attention(query=x, key=x, value=x, attn_mask=OPEN[:, :3], name="y")

    PASS_REGISTRY["optimum_ane::decompose_attention"](program)
    kept = [op for op in program.functions["main"].operations if op.op_type != "const"]
    assert {op.outputs[0].dtype for op in kept} == {types.fp16}
