"""Compares saved programs: what a function computes, on which weights, told without a runtime."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def content_of(mlpackage, function="main"):
    """A function's inputs, operations and outputs, each weight as a hash of its decoded values; names included."""
    graph = read_function(Package(mlpackage), function)
    inputs = [(value.name, value.type) for value in graph.inputs]
    return inputs, _block(graph), graph.names


def _block(graph):
    return [
        (
            node.op,
            {parameter: _operand(operand) for parameter, operand in node.inputs.items()},
            [(value.name, value.type) for value in node.outputs],
            [_block(block) for block in node.blocks],
        )
        for node in graph.nodes
    ]


def _operand(operand):
    if isinstance(operand, tuple):
        return [_operand(item) for item in operand]
    if not isinstance(operand, Constant):
        return operand.name
    if operand.type is None:
        return repr(operand.python())
    return operand.type, hashlib.sha256(np.ascontiguousarray(operand.array()).tobytes()).hexdigest()


def stored_arrays(mlpackage):
    """The arrays of a weight file, read by hand: (type, bytes) in the order of the file."""
    data = (mlpackage / WEIGHTS).read_bytes()
    count, version = struct.unpack_from("<II", data)
    assert version == 2
    arrays, offset = [], 64
    for _ in range(count):
        sentinel, kind, size, start, _ = struct.unpack_from("<IIQQQ", data, offset)
        assert (sentinel, start) == (0xDEADBEEF, offset + 64)
        arrays.append((kind, data[start : start + size]))
        offset = -(-(start + size) // 64) * 64
    assert offset >= len(data) > offset - 64
    return arrays
