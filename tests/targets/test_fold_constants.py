"""What is made of constants alone is computed once: as PyTorch computes it, and nothing else is touched."""

import sys

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

TABLE = np.random.default_rng(0).standard_normal((1, 4, 3, 5)).astype(np.float32)
PLACES = np.array([2, 0, 1, 2], dtype=np.int32)


def fold(program):
    PASS_REGISTRY["optimum_ane::fold_constants"](program)
    PASS_REGISTRY["common::dead_code_elimination"](program)
    program.validate()
    return [each.op_type for each in program.functions["main"].operations if each.op_type != "const"]


def build(*shapes, target=ct.target.iOS17):
    specs = [mb.TensorSpec(shape=shape, dtype=types.fp32) for shape in shapes]
    return mb.program(input_specs=specs, opset_version=target)


def test_a_table_of_positions_becomes_one_constant(tmp_path):
    """Resized, counted along an axis, turned into sines, cut, looked up: what models do to such tables."""

    @build((1, 4, 4, 10))
    def program(x):
        wide = mb.upsample_bilinear(x=TABLE, scale_factor_height=2.0, scale_factor_width=2.0, align_corners=False)
        rows = mb.gather(x=mb.cumsum(x=wide, axis=3), indices=PLACES, axis=2)
        seen = mb.cast(x=mb.logical_and(x=mb.greater(x=rows, y=0.0), y=mb.less(x=rows, y=5.0)), dtype="fp32")
        waves = mb.add(x=mb.sin(x=rows), y=np.float32(0.25))
        first, second = mb.split(x=waves, num_splits=2, axis=1)
        return mb.add(x=x, y=mb.mul(x=mb.concat(values=(second, first), axis=1), y=seen), name="y")

    assert fold(program) == ["add"]
    wide = torch.nn.functional.interpolate(torch.from_numpy(TABLE), scale_factor=2, mode="bilinear")
    rows = wide.cumsum(3)[:, :, PLACES.tolist()]
    first, second = (rows.sin() + 0.25).chunk(2, 1)
    x = torch.randn(1, 4, 4, 10, generator=torch.Generator().manual_seed(0))
    expected = x + torch.cat((second, first), 1) * ((rows > 0) & (rows < 5))
    session = PortableSession(save(convert_program(program, ct.target.iOS17), tmp_path / "a.mlpackage"))
    np.testing.assert_allclose(session.predict({"x": x.numpy()})["y"], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_types_stay_as_they_are_declared():
    @build((4,))
    def program(x):
        places = mb.gather(x=np.array([5, 6, 7], dtype=np.int32), indices=PLACES, axis=0)
        numbers = mb.cumsum(x=np.ones(4, np.float16), axis=0)
        return mb.identity(x=x), mb.add(x=places, y=mb.cast(x=x, dtype="int32")), mb.mul(x=numbers, y=np.float16(2))

    outputs = [each.dtype for each in program.functions["main"].outputs]
    fold(program)
    (added,) = program.functions["main"].find_ops(op_type="add")
    assert (added.x.val.dtype, [*added.x.val]) == (np.int32, [7, 5, 6, 7])
    # What the program returns is no constant.
    (product,) = program.functions["main"].find_ops(op_type="mul")
    assert (product.x.val.dtype, [*product.x.val]) == (np.float16, [1, 2, 3, 4])
    assert [each.dtype for each in program.functions["main"].outputs] == outputs


def test_what_would_be_large_compressed_or_is_computed_stays(monkeypatch):
    @build((4, 3))
    def program(x):
        weight = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((4, 3), np.int8), zero_point=np.int8(0), scale=np.float32(0.5), axis=0
        )
        repeated = mb.gather(x=np.ones((2, 3), np.float32), indices=PLACES % 2, axis=0)
        return mb.add(x=mb.add(x=x, y=weight), y=mb.mul(x=repeated, y=mb.cumsum(x=x, axis=0)))

    monkeypatch.setattr(sys.modules["optimum_ane.targets.coreml.passes.fold_constants"], "LARGEST", 11)
    before = [each.op_type for each in program.functions["main"].operations if each.op_type != "const"]
    assert fold(program) == before
