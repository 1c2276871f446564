"""Edits saved packages, and checks that they are refused as they should be."""

from __future__ import annotations

import time

import numpy as np
import pytest
from coremltools.proto import Model_pb2

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable import PortableSession

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


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
