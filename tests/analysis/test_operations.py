"""What analysis reads of a program, against what coremltools wrote."""

import coremltools as ct
import coremltools.optimize as cto
import numpy as np
import pytest
import torch
from analysis_programs import edited, program_of, save_program
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.operations import read_program
from optimum_ane.errors import PackageError


def half(*shape):
    return np.ones(shape, np.float16)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A converted module of two layers, and the path that it is saved to."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(64, 128, 1), torch.nn.ReLU(), torch.nn.Conv2d(128, 64, 1)).eval()
    traced = torch.jit.trace(module, torch.ones(1, 64, 1, 32))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", (1, 64, 1, 32), dtype=np.float16)],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    path = tmp_path_factory.mktemp("network") / "a.mlpackage"
    model.save(str(path))
    return model, path


def weight_file(path):
    return (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def test_weights_are_as_many_bytes_as_the_weight_file_holds_beside_its_records(network):
    program = read_program(network[1])
    # Each array has a record of 64 bytes, the file a header of 64; these arrays need no padding between them.
    assert program.weight_bytes == weight_file(network[1]) - 64 * (len(program.weights) + 1)
    assert program.weight_bytes == 2 * (128 * 64 + 128 + 64 * 128 + 64)


def test_an_operation_knows_its_weights_operands_and_attributes(network):
    conv = next(o for o in read_program(network[1]).operations if o.type == "conv")
    assert conv.weight_bytes == 2 * (128 * 64 + 128)
    assert {(t.dtype, t.shape, t.stored_bytes) for t in conv.weights} == {
        ("float16", (128, 64, 1, 1), 2 * 128 * 64),
        ("float16", (128,), 2 * 128),
    }
    assert [(t.name, t.shape, t.is_constant) for t in conv.operands] == [("x", (1, 64, 1, 32), False)]
    assert conv.attributes["strides"] == [1, 1]
    assert conv.attributes["pad_type"] == "valid"
    assert conv.outputs[0].dense_bytes == 2 * 128 * 32


COMPRESSIONS = {
    "int8": (
        lambda m: cto.coreml.linear_quantize_weights(
            m, cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig(mode="linear_symmetric"))
        ),
        "int8",
        1 + 2 / 64,
    ),
    "int4 per block": (
        lambda m: cto.coreml.linear_quantize_weights(
            m,
            cto.coreml.OptimizationConfig(
                cto.coreml.OpLinearQuantizerConfig(
                    mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
                )
            ),
        ),
        "int4",
        0.5 + 2 / 32,
    ),
    "palette of 4 bits": (
        lambda m: cto.coreml.palettize_weights(
            m, cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4, mode="uniform"))
        ),
        "uint4",
        0.5 + 16 * 2 / (128 * 64),
    ),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compressed_weight_is_as_large_as_it_is_stored(name, network, tmp_path):
    compress, dtype, bytes_each = COMPRESSIONS[name]
    path = tmp_path / "a.mlpackage"
    compress(network[0]).save(str(path))
    program = read_program(path)
    weight = next(t for o in program.operations for t in o.inputs.get("weight", ()) if t.shape == (128, 64, 1, 1))
    assert weight.stored_dtype == dtype
    assert weight.dtype == "float16"
    assert weight.stored_bytes == pytest.approx(128 * 64 * bytes_each)
    assert weight.dense_bytes == 2 * 128 * 64
    assert not any(o.type.startswith("constexpr_") for o in program.operations)
    assert program.weight_bytes <= weight_file(path)


def test_a_shared_weight_counts_once_for_the_program_and_with_each_user():
    weight = np.ones((64, 64), np.float16)

    def build(x):
        shared = mb.const(val=weight)
        return mb.matmul(x=mb.matmul(x=x, y=shared), y=shared)

    program = program_of(build, x="fp16 1 64")
    assert [o.weight_bytes for o in program.operations] == [8192, 8192]
    assert program.weight_bytes == 8192
    assert len(program.weights) == 1


def test_the_body_of_a_branch_follows_its_operation():
    def build(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_max(x=x, axes=[0], keep_dims=False), y=np.float16(0)),
            _true_fn=lambda: mb.mul(x=x, y=np.float16(2)),
            _false_fn=lambda: mb.add(x=x, y=np.float16(3)),
        )

    program = program_of(build, x="fp16 8")
    assert [(o.type, o.depth) for o in program.operations] == [
        ("reduce_max", 0),
        ("greater", 0),
        ("cond", 0),
        ("mul", 1),
        ("add", 1),
    ]
    assert [o.index for o in program.operations] == [0, 1, 2, 3, 4]


def test_states_are_told_from_inputs():
    def build(x, cache):
        return mb.coreml_update_state(state=cache, value=mb.add(x=mb.read_state(input=cache), y=x))

    program = program_of(build, ct.target.iOS18, {"cache": "fp16 1 4"}, x="fp16 1 4")
    assert [t.name for t in program.inputs] == ["x"]
    assert [(t.name, t.shape, t.dtype) for t in program.states] == [("cache", (1, 4), "float16")]


def test_an_operation_that_nobody_knows_is_read_like_any_other():
    def edit(operation):
        operation.type = "novel_operation"

    (operation,) = edited(lambda x: mb.relu(x=x), edit, x="fp16 1 4").operations
    assert (operation.type, operation.flops) == ("novel_operation", 4)


def test_unknown_extents_are_none_and_the_package_says_how_far_they_go(tmp_path):
    traced = torch.jit.trace(torch.nn.ReLU(), torch.ones(1, 8))
    inputs = [ct.TensorType("x", ct.Shape((1, ct.RangeDim(1, 8, 8))), dtype=np.float16)]
    model = ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    model.save(str(tmp_path / "a.mlpackage"))
    program = read_program(tmp_path / "a.mlpackage")
    assert program.inputs[0].shape == (1, None)
    assert (program.flexibility, program.has_unknown_shapes) == ("range", True)


def test_one_function_of_several_is_read_by_its_name(tmp_path):
    for name, factor in (("short", 2), ("long", 3)):
        build = (lambda x, n=factor: mb.add(x=mb.mul(x=x, y=np.float16(n)), y=x)) if factor == 3 else mb.relu
        save_program(tmp_path / f"{name}.mlpackage", lambda x, build=build: build(x=x), {"x": "fp16 1 4"})
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name in ("short", "long"):
        descriptor.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "short"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    assert [o.type for o in read_program(tmp_path / "both.mlpackage").operations] == ["relu"]
    assert [o.type for o in read_program(tmp_path / "both.mlpackage", "long").operations] == ["mul", "add"]
    assert read_program(tmp_path / "both.mlpackage").others == ("long",)
    with pytest.raises(PackageError, match=r"no function 'other'.*long, short"):
        read_program(tmp_path / "both.mlpackage", "other")
