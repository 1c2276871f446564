"""Equal small constants are there once; what is of another type, large, compressed or returned stays."""

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

SHAPE = (1, 2, 1, 4)


def build(body):
    spec = mb.TensorSpec(shape=SHAPE, dtype=types.fp32)
    return mb.program(input_specs=[spec], opset_version=ct.target.iOS16)(body)


def constants(program):
    return [op.outputs[0].val for op in program.functions["main"].find_ops(op_type="const")]


def share(program):
    PASS_REGISTRY["optimum_ane::share_small_constants"](program)
    program.validate()
    return program


def convolutions(x):
    weight = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    for _ in range(3):
        x = mb.conv(x=x, weight=weight, strides=[1, 1], pad_type="valid", pad=[0, 0, 0, 0], dilations=[1, 1], groups=1)
    return mb.mul(x=x, y=0.5, name="y")


def test_each_value_is_there_once_and_the_answer_is_the_same(tmp_path):
    program = build(convolutions)
    before = PortableSession(save(convert_program(program, ct.target.iOS16), tmp_path / "before.mlpackage"))
    count = len(constants(program))
    share(program)
    small = [np.asarray(each) for each in constants(program)]
    assert len(small) == len({(each.dtype.str, each.shape, each.tobytes()) for each in small})
    # [1, 1] for strides and dilations, "valid", [0, 0, 0, 0], 1, one weight of four elements, and 0.5.
    assert (count, len(small)) == (19, 6)
    after = PortableSession(save(convert_program(program, ct.target.iOS16), tmp_path / "after.mlpackage"))
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(after.predict({"x": x})["y"], before.predict({"x": x})["y"])


def test_equal_numbers_of_other_types_are_others():
    program = build(
        lambda x: mb.reduce_sum(x=mb.mul(x=mb.add(x=x, y=np.float32(1)), y=np.float32(1)), axes=[1], keep_dims=True)
    )
    kinds = [np.asarray(each).dtype.kind for each in constants(share(program))]
    assert sorted(kinds) == ["b", "f", "i"]


def test_what_lies_in_the_weight_file_or_is_returned_stays():
    table = np.arange(10, dtype=np.float32).reshape(1, 1, 1, 10)[..., :4]

    def body(x):
        large = [mb.const(val=np.ones((2, 5), np.float32), name=f"large_{index}") for index in range(2)]
        returned = mb.const(val=np.float32(3), name="returned")
        total = mb.add(x=mb.matmul(x=mb.mul(x=x, y=table), y=np.ones((4, 2), np.float32)), y=np.float32(3))
        return mb.matmul(x=total, y=large[0]), mb.matmul(x=total, y=large[1]), returned

    program = share(build(body))
    assert [op.name for op in program.functions["main"].find_ops(op_type="const") if "large" in op.name] == [
        "large_0",
        "large_1",
    ]
    assert [output.name for output in program.functions["main"].outputs][2] == "returned"
    assert sum(np.size(value) == 1 and value == 3 for value in constants(program) if np.size(value) == 1) == 2


def test_parts_of_compressed_weights_stay():
    def body(x):
        for index in range(2):
            weight = mb.constexpr_affine_dequantize(
                quantized_data=np.array([[[[1]], [[2]]], [[[3]], [[4]]]], np.int8),
                zero_point=np.int8(0),
                scale=np.float32(2),
                axis=np.int32(0),
                name=f"weight_{index}",
            )
            x = mb.conv(x=x, weight=weight)
        return x

    program = build(body)
    before = [op.inputs for op in program.functions["main"].find_ops(op_type="constexpr_affine_dequantize")]
    share(program)
    after = [op.inputs for op in program.functions["main"].find_ops(op_type="constexpr_affine_dequantize")]
    assert after == before
