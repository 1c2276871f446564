"""One attack of each kind on a package: refused by name and place, before memory is taken, and without a crash."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import time
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  # its usual name
from coremltools.proto import Model_pb2
from portable_programs import save_module, save_program

from optimum_ane.errors import ExecutionError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
ONES = np.ones((2, 3), np.float32)


@pytest.fixture(autouse=True)
def capped(monkeypatch):
    """What is to be refused must not take down the machine that tests it."""
    monkeypatch.setattr(limits, "memory", lambda: 2**30)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Packages by name, each built once."""
    folder = tmp_path_factory.mktemp("originals")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    save_module(folder / "net.mlpackage", net, {"x": torch.zeros(1, 64)})
    return folder


@pytest.fixture
def package(originals, tmp_path):
    return shutil.copytree(originals / "net.mlpackage", tmp_path / "m.mlpackage")


def edit(package, change):
    """Applies a change to the specification and to the one block of its program."""
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    change(spec, block)
    (package / MODEL).write_bytes(spec.SerializeToString())


def find(block, op_type):
    return next(op for op in block.operations if op.type == op_type)


def integers(block, op_type, parameter):
    """Returns the integers of a constant parameter, to be changed in place."""
    name = find(block, op_type).inputs[parameter].arguments[0].name
    const = next(op for op in block.operations if op.type == "const" and op.outputs[0].name == name)
    return const.attributes["val"].immediateValue.tensor.ints.values


def refused(package, match, kind=PackageError, shape=(2, 3), dtype=np.float32):
    """Checks that a package is refused, naming it, and without memory or time being taken."""
    start = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        PortableSession(package).predict({"x": np.ones(shape, dtype)})
    assert str(package) in str(caught.value)
    assert "allocate" not in str(caught.value)
    assert time.monotonic() - start < 5


# Files.


def test_manifest_that_is_huge(package):
    (package / "Manifest.json").write_bytes(b" " * (2**20 + 1))
    refused(package, "bytes; at most 1048576 are read")


def test_manifest_that_is_a_link_out(package, tmp_path):
    shutil.move(package / "Manifest.json", tmp_path / "Manifest.json")
    (package / "Manifest.json").symlink_to(tmp_path / "Manifest.json")
    refused(package, "a link to a file outside the package")


@pytest.mark.parametrize("file", ["Manifest.json", MODEL, WEIGHTS])
def test_pipe_in_the_place_of_a_file(package, file):
    (package / file).unlink()
    os.mkfifo(package / file)
    refused(package, "which is not a file")


@pytest.mark.parametrize("file", ["Manifest.json", MODEL, WEIGHTS])
def test_folder_in_the_place_of_a_file(package, file):
    (package / file).unlink()
    (package / file).mkdir()
    refused(package, "which is not a file")


def test_link_to_itself(package):
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to("weight.bin")
    refused(package, "which is missing")


def test_specification_larger_than_protobuf_reads(package):
    with (package / MODEL).open("r+b") as file:
        file.truncate(2**31)  # a hole: it takes no space on disk
    refused(package, "bytes; at most 2147483647 are read")


def test_name_that_is_no_text(package):
    data = (package / MODEL).read_bytes()
    assert b"linear" in data
    (package / MODEL).write_bytes(data.replace(b"linear", b"lin\xff\xfer"))
    refused(package, "not a Core ML specification")


def test_array_between_two_elements(package):
    data = bytearray((package / WEIGHTS).read_bytes())
    data[64 + 16] += 1
    (package / WEIGHTS).write_bytes(data)
    refused(package, "between two elements")


# Names.


def test_value_defined_twice(package):
    def change(spec, block):
        block.operations.add().CopyFrom(find(block, "linear"))

    edit(package, change)
    refused(package, "is defined twice")


def test_value_that_hides_an_input(package):
    def change(spec, block):
        find(block, "const").outputs[0].name = "x"

    edit(package, change)
    refused(package, "'x' is defined twice")


def test_cycle(package):
    def change(spec, block):
        first, second = (op for op in block.operations if op.type == "linear")
        first.inputs["x"].arguments[0].name = second.outputs[0].name

    edit(package, change)
    refused(package, "which nothing before it defines")


def test_input_described_twice(package):
    edit(package, lambda spec, block: spec.description.input.add().CopyFrom(spec.description.input[0]))
    refused(package, "'x' is described twice")


def test_output_described_twice(package):
    edit(package, lambda spec, block: spec.description.output.add().CopyFrom(spec.description.output[0]))
    refused(package, "is described twice")


def test_blocks_nested_deeply(package):
    def change(spec, block):
        for _ in range(70):
            inner = block.operations.add()
            inner.type = "cond"
            block = inner.blocks.add()

    # protobuf has a limit of its own, at about half of that many blocks.
    edit(package, change)
    refused(package, "not a Core ML specification|nested deeper")


# Declarations.


@pytest.mark.parametrize(("size", "says"), [(2**62, "more than 2\\*\\*40"), (2**20, "needs .* bytes")])
def test_declared_extent(package, size, says):
    def change(spec, block):
        const = next(o for o in block.operations if o.attributes["val"].WhichOneof("value") == "blobFileValue")
        const.attributes["val"].type.tensorType.dimensions[0].constant.size = size

    edit(package, change)
    refused(package, says)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [-1, 64], [1] * 1000, [0, 2**62]])
def test_described_shape(package, shape):
    edit(
        package,
        lambda spec, block: spec.description.input[0].type.multiArrayType.shape.__setitem__(slice(None), shape),
    )
    refused(package, "'x' of")


def test_description_and_program_differ(package):
    edit(package, lambda spec, block: spec.description.input[0].type.multiArrayType.shape.__setitem__(1, 32))
    refused(package, r"input 'x' is float32 \(1, 32\) in the description and float32 \(1, 64\) in the program")


# Sizes. Each program of a few bytes asks for much more than a terabyte.


def _fill(x):
    return mb.fill(shape=[2, 3], value=1.0)


def _tile(x):
    return mb.tile(x=x, reps=[1, 1])


def _pad(x):
    return mb.pad(x=x, pad=[0, 1], mode="constant", constant_val=0.0)


def _one_hot(x):
    return mb.one_hot(indices=mb.cast(x=x, dtype="int32"), one_hot_vector_size=4)


def _range(x):
    return mb.range_1d(start=0, end=4, step=1)


SIZED = {
    "fill": (_fill, "shape"),
    "tile": (_tile, "reps"),
    "pad": (_pad, "pad"),
    "one_hot": (_one_hot, "one_hot_vector_size"),
    "range_1d": (_range, "end"),
}


@pytest.mark.parametrize("op", SIZED)
@pytest.mark.parametrize("number", [2**31 - 1, -(2**31)])
def test_parameters_that_set_sizes(tmp_path, op, number):
    build, parameter = SIZED[op]
    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})

    def change(spec, block):
        values = integers(block, op, parameter)
        values[:] = [number] * len(values)

    edit(path, change)
    says = "impossible|inconsistent|at most 2147483648 elements|does not fit|at once"
    refused(path, f"{op} at .*({says})", (PackageError, ExecutionError))


def test_sizes_that_are_computed(tmp_path):
    def build(x):
        size = mb.cast(x=mb.mul(x=mb.reduce_sum(x=x), y=1e6), dtype="int32")
        return mb.fill(shape=mb.concat(values=[mb.expand_dims(x=size, axes=[0]), [10**6]], axis=0), value=1.0)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    refused(path, "fill at .*at most 2147483648 elements", ExecutionError)
    session = PortableSession(path)
    session.predict({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ExecutionError, match="at most 2147483648 elements"):
        session.predict({"x": ONES})


def test_broadcast_of_a_row_and_a_column(tmp_path):
    def build(x):
        row = mb.fill(shape=[1, 2], value=1.0)
        return mb.add(x=row, y=mb.transpose(x=row, perm=[1, 0]))

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    edit(path, lambda spec, block: integers(block, "fill", "shape").__setitem__(1, 2**17))
    refused(path, "add at .*at most 2147483648 elements", (PackageError, ExecutionError))


def test_many_values_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 2**20)

    def build(x):
        rows = [mb.fill(shape=[100, 100], value=float(i)) for i in range(20)]
        return functools.reduce(lambda a, b: mb.add(x=a, y=b), rows)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    refused(path, "bytes would be held at once", ExecutionError)


def test_product_that_takes_a_year(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WORK", 10**9)

    def build(x):
        y = mb.fill(shape=[500, 500], value=1e-3)
        for _ in range(20):
            y = mb.matmul(x=y, y=y)
        return y

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    refused(path, "takes more than 1000000000 elementary steps", ExecutionError)


def test_work_of_a_prediction_is_counted_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WORK", 10**5)
    path = save_program(tmp_path / "m.mlpackage", lambda x: mb.add(x=x, y=1.0), {"x": ONES})
    session = PortableSession(path)
    for _ in range(100):
        session.predict({"x": ONES})


def test_loop_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TURNS", 1000)

    def build(x):
        return mb.while_loop(
            _cond=lambda y: mb.greater(x=mb.reduce_sum(x=y), y=0.0),
            _body=lambda y: mb.mul(x=y, y=1.0),
            loop_vars=(x,),
        )

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    refused(path, "while_loop at .*more than 1000 turns", ExecutionError)


def test_value_that_doubles_in_a_loop(tmp_path):
    # coremltools would refuse a loop whose value changes its shape: it is made to change by an edit.
    def build(x):
        return mb.while_loop(
            _cond=lambda y: mb.greater(x=mb.reduce_max(x=y), y=0.0),
            _body=lambda y: mb.tile(x=y, reps=[1, 1]),
            loop_vars=(x,),
        )

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})

    def change(spec, block):
        body = find(block, "while_loop").blocks[1]
        scope = body if any(op.type == "const" for op in body.operations) else block
        name = find(body, "tile").inputs["reps"].arguments[0].name
        const = next(op for op in scope.operations if op.outputs[0].name == name)
        const.attributes["val"].immediateValue.tensor.ints.values[:] = [1, 1024]

    edit(path, change)
    refused(path, "tile at .*(at most|at once)", ExecutionError)


def test_parameter_of_many_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARAMETER", 1)

    def build(x):
        return mb.fill(shape=mb.cast(x=mb.reshape(x=x, shape=[-1]), dtype="int32"), value=0.0)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones(2, np.float32)})
    refused(path, "shape has 2 elements; at most 1 are taken", ExecutionError, (2,))


# What torch does not check, or does not survive.


def test_least_integer_by_minus_one(tmp_path):
    def build(x):
        number = mb.cast(x=x, dtype="int32")
        return mb.real_div(x=mb.sub(x=number, y=np.int32(2**31 - 1)), y=np.int32(-1))

    path = save_program(tmp_path / "m.mlpackage", build, {"x": ONES})
    (result,) = PortableSession(path).predict({"x": -ONES}).values()
    assert (result == -(2**31)).all()  # as the processor wraps it; torch's own division ends the process


def _conv_program(path):
    weight = np.ones((1, 1, 3), np.float32)
    return save_program(
        path, lambda x: mb.conv(x=x, weight=weight, dilations=[1], strides=[1]), {"x": np.ones((1, 1, 8), np.float32)}
    )


@pytest.mark.parametrize("parameter", ["dilations", "strides"])
@pytest.mark.parametrize("number", [0, -1, 2**62, 2**31 - 1])
def test_convolution_that_reads_outside(tmp_path, parameter, number):
    path = _conv_program(tmp_path / "m.mlpackage")

    def change(spec, block):
        name = find(block, "conv").inputs[parameter].arguments[0].name
        const = next(op for op in block.operations if op.outputs[0].name == name)
        value = const.attributes["val"]
        value.type.tensorType.dataType = 24  # int64, for which no weight file is needed
        value.immediateValue.tensor.longInts.values[:] = [number]

    edit(path, change)
    if parameter == "strides" and number > 0:
        (result,) = PortableSession(path).predict({"x": np.ones((1, 1, 8), np.float32)}).values()
        assert result.tolist() == [[[3.0]]]
    else:
        refused(path, "conv at .*(should be positive|spans)", ExecutionError, (1, 1, 8))


def test_attention_over_values_that_are_missing(tmp_path):
    shapes = {name: np.ones((1, 4, 8), np.float32) for name in ("q", "k", "v")}
    path = save_program(
        tmp_path / "m.mlpackage",
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
        shapes,
        target=ct.target.iOS18,
    )

    def change(spec, block):
        function = spec.mlProgram.functions["main"]
        for declared, described in zip(function.inputs, spec.description.input, strict=True):
            if declared.name == "k":
                declared.type.tensorType.dimensions[1].constant.size = 4096
                described.type.multiArrayType.shape[1] = 4096

    edit(path, change)
    with pytest.raises(ExecutionError, match="do not fit together"):
        PortableSession(path).predict({**shapes, "k": np.ones((1, 4096, 8), np.float32)})


def test_linear_layer_of_another_width(package):
    def change(spec, block):
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[1].constant.size = 1
        spec.description.input[0].type.multiArrayType.shape[1] = 1

    edit(package, change)
    refused(package, "linear at ", ExecutionError, (1, 1))


def test_many_blocks_among_many_names(package):
    """Copying what is visible for each block would take minutes."""

    def change(spec, block):
        const = find(block, "const")
        for number in range(3000):
            block.operations.add().CopyFrom(const)
            block.operations[-1].outputs[0].name = f"const{number}"
        for _ in range(3000):
            branch = block.operations.add()
            branch.type = "cond"
            branch.blocks.add()
            branch.blocks.add()

    edit(package, change)
    refused(package, "cond at .* has 2 blocks and parameters")


def test_states_that_fill_the_memory(tmp_path):
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("cache", torch.zeros(1, 4))

        def forward(self, x):
            self.cache[:, :] = self.cache + x
            return self.cache + 1

    path = save_module(
        tmp_path / "m.mlpackage",
        Counter(),
        {"x": torch.ones(1, 4)},
        minimum_deployment_target=ct.target.iOS18,
        states=[ct.StateType(ct.TensorType(shape=(1, 4), dtype=np.float16), "cache")],
    )

    def change(spec, block):
        spec.description.state[0].type.stateType.arrayType.shape[1] = 2**30

    edit(path, change)
    refused(path, "the states take 4294967296 bytes")
