"""Programs that ask for too much are refused before memory is taken, and so is what torch does not survive."""

from __future__ import annotations

import functools

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  # its usual name
from portable_attacks import edit, find, integers, refused
from portable_programs import save_module, save_program

from optimum_ane.errors import ExecutionError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits
from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.guard import depends_on_data
from optimum_ane.runtimes.portable.package import Package

pytestmark = pytest.mark.usefixtures("capped")
ONES = np.ones((2, 3), np.float32)

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


def test_programs_that_are_looked_at_each_time(tmp_path):
    def written(x, place):
        return mb.slice_update(x=x, update=[[1.0]], begin=place, end=[1, 1], end_mask=[False, False])

    def cut(x, place):
        return mb.slice_by_index(x=x, begin=place, end=[2, 3])

    def shaped(x, place):
        return mb.reshape(x=x, shape=mb.reverse(x=mb.shape(x=x)))

    inputs = {"x": ONES, "place": np.zeros(2, np.int32)}
    for build, always in ((written, False), (cut, True), (shaped, False)):
        path = save_program(tmp_path / f"{build.__name__}.mlpackage", build, inputs, target=ct.target.iOS18)
        graph = read_function(Package(path), "main")
        assert depends_on_data(graph) == always, build.__name__


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
        # One number, which is right, and not the six that the description promises.
        refused(path, r"has shape \(1, 1, 1\), and the description says \(1, 1, 6\)", ExecutionError, (1, 1, 8))
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
