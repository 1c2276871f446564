"""Reads the operations of a saved package, in the terms of its protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field

import coremltools as ct
from coremltools.proto import MIL_pb2

FLOAT16, FLOAT32, BOOL = (MIL_pb2.DataType.Value(name) for name in ("FLOAT16", "FLOAT32", "BOOL"))


@dataclass
class Operation:
    type: str
    inputs: dict[str, list[str]]
    outputs: list[str]
    dtypes: list[int]
    ranks: list[int]
    constants: dict[str, object] = field(default_factory=dict)


def read_operations(directory, with_constants=False):
    """The operations of a package's main function in order, constants left out unless asked for."""
    program = ct.utils.load_spec(str(directory / "model.mlpackage")).mlProgram
    function = program.functions["main"]
    operations = [_operation(proto) for proto in function.block_specializations[function.opset].operations]
    return [operation for operation in operations if with_constants or operation.type != "const"]


def _operation(proto):
    inputs = {key: [binding.name for binding in value.arguments] for key, value in proto.inputs.items()}
    types = [output.type.tensorType for output in proto.outputs]
    return Operation(
        proto.type,
        inputs,
        [output.name for output in proto.outputs],
        [t.dataType for t in types],
        [t.rank for t in types],
    )


def types_of(operations):
    return [operation.type for operation in operations]
