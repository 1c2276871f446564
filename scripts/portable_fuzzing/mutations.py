"""Damages a package: its bytes, and its protobuf field by field.

All randomness comes from the generator that is handed in, so that a mutant can be made again from its number.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from coremltools.proto import Model_pb2
from google.protobuf.descriptor import FieldDescriptor

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MANIFEST = Path("Manifest.json")

_INTEGERS = (0, 1, -1, 2, 3, 4, 7, 16, 63, 64, 127, 128, 255, 1000, 4096, 65536, 10**6, 2**20, 2**24, 2**28, 2**31 - 1)
_INTEGERS += (2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -2, -(2**31), -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 1e-8, 65504.0, 1e5, 1e30, 3e38, -3e38, 1e300)
_FLOATS += (float("inf"), float("-inf"), float("nan"))
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_PATHS = (
    "../x",
    "/etc/passwd",
    "@model_path/../../x",
    "@model_path/weights",
    "a\0b",
    "@model_path/weights/weight.bin",
)


@dataclass
class Seed:
    """A package in memory.

    Attributes:
        name: Its name.
        manifest: The manifest's bytes.
        model: The specification's bytes.
        weights: The weight file's bytes; None where it has none.
    """

    name: str
    manifest: bytes
    model: bytes
    weights: bytes | None

    @classmethod
    def read(cls, path: Path) -> Seed:
        """Reads a package."""
        weights = path / WEIGHTS
        return cls(
            path.stem,
            (path / MANIFEST).read_bytes(),
            (path / MODEL).read_bytes(),
            weights.read_bytes() if weights.exists() else None,
        )

    def write(self, path: Path) -> None:
        """Writes the package; a weight file of another one that lay there goes."""
        (path / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
        (path / MANIFEST).write_bytes(self.manifest)
        (path / MODEL).write_bytes(self.model)
        if self.weights is None:
            (path / WEIGHTS).unlink(missing_ok=True)
        else:
            (path / WEIGHTS).write_bytes(self.weights)


class Mutator:
    """Makes mutants of packages."""

    def __init__(self, seeds: list[Seed], operations: Mapping[str, tuple[frozenset[str], frozenset[str]]]) -> None:
        """Prepares for mutating.

        Args:
            seeds: The packages to begin with.
            operations: The operations that may take another's place, each with the parameters that it must have, and
                with all that it may have.
        """
        self._seeds = seeds
        # Programs of many operations have more to mutate.
        self._weights = [min(len(seed.model), 20000) for seed in seeds]
        self._parameters = operations
        self._operations = sorted(operations)

    def mutant(self, rng: Random) -> tuple[Seed, str]:
        """Returns a mutant, and what was done to it."""
        seed = rng.choices(self._seeds, self._weights)[0]
        manifest, model, weights = seed.manifest, seed.model, seed.weights
        kind = rng.choices(("protobuf", "model bytes", "weights", "manifest"), (80, 8, 10, 2))[0]
        if kind == "weights" and weights is None:
            kind = "protobuf"
        if kind == "protobuf":
            spec = Model_pb2.Model.FromString(model)
            for _ in range(rng.choices((1, 2, 3, 6), (60, 20, 15, 5))[0]):
                self._mutate(spec, rng)
            model = spec.SerializeToString()
        elif kind == "model bytes":
            model = damaged(model, rng)
        elif kind == "manifest":
            manifest = damaged(manifest, rng) if rng.random() < 0.5 else _other_path(manifest, rng)
        else:
            weights = damaged(weights or b"", rng) if rng.random() < 0.5 else _other_record(weights or b"", rng)
        return Seed(seed.name, manifest, model, weights), f"{seed.name}: {kind}"

    def _mutate(self, spec: Any, rng: Random) -> None:
        """Damages one place of a specification."""
        functions = list(spec.mlProgram.functions.values())
        if not functions or rng.random() < 0.1:
            self._descend(spec, rng)
            return
        function = rng.choice(functions)
        blocks = list(function.block_specializations.values())
        if not blocks or rng.random() < 0.08:
            self._descend(function, rng)
            return
        block = rng.choice(blocks)
        while nested := [inner for op in block.operations for inner in op.blocks]:
            if rng.random() < 0.5:
                break
            block = rng.choice(nested)
        if not block.operations:
            self._descend(block, rng)
            return
        op = rng.choice(block.operations)
        rng.choice((self._constant, self._constant, self._type, self._name, self._operation, self._block, self._any))(
            op, block, rng
        )

    def _any(self, op: Any, block: Any, rng: Random) -> None:
        self._descend(op, rng)

    def _constant(self, op: Any, block: Any, rng: Random) -> None:
        """Changes the value of a constant, or its type with it."""
        constants = {
            o.outputs[0].name: o.attributes["val"] for o in block.operations if "val" in o.attributes and o.outputs
        }
        if not constants:
            return
        # Of the operation at hand half of the time, so that every operation has its turn, whatever it takes.
        bound = [b.name for argument in op.inputs.values() for b in argument.arguments if b.name in constants]
        name = rng.choice(bound) if bound and rng.random() < 0.5 else rng.choice(sorted(constants))
        value = constants[name]
        if value.WhichOneof("value") == "blobFileValue":
            self._descend(value, rng)
            return
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind is None:
            return
        field = getattr(tensor, kind)
        if kind == "bytes":
            field.values = damaged(field.values, rng)
        elif field.values:
            descriptor = field.DESCRIPTOR.fields_by_name["values"]
            index = rng.randrange(len(field.values))
            field.values[index] = self._scalar(descriptor, field.values[index], rng)

    def _type(self, op: Any, block: Any, rng: Random) -> None:
        """Changes an extent, the rank or the element type that an operation declares."""
        if not op.outputs:
            return
        tensor = rng.choice(op.outputs).type.tensorType
        choice = rng.randrange(3)
        if choice == 0 and tensor.dimensions:
            rng.choice(tensor.dimensions).constant.size = rng.choice([n for n in _INTEGERS if n >= 0])
        elif choice == 1:
            tensor.dataType = rng.choice((0, 1, 2, 10, 11, 12, 21, 22, 23, 24, 25, 31, 32, 33, 35, 36, 37, 38, 39, 40))
        else:
            tensor.dimensions.add().constant.size = rng.choice((0, 1, 2, 2**40))

    def _name(self, op: Any, block: Any, rng: Random) -> None:
        """Binds a parameter to another value of the block."""
        bindings = [b for argument in op.inputs.values() for b in argument.arguments]
        names = [o.name for other in block.operations for o in other.outputs]
        if bindings and names:
            rng.choice(bindings).name = rng.choice(names)

    def _operation(self, op: Any, block: Any, rng: Random) -> None:
        """Makes another operation of one, or takes a parameter away, or adds one of another operation."""
        choice = rng.randrange(4)
        if choice == 0:
            given = op.inputs.keys()
            fitting = [name for name, (must, may) in self._parameters.items() if must <= given <= may]
            op.type = rng.choice(fitting or self._operations)
        elif choice == 1:
            op.type = rng.choice((rng.choice(block.operations).type, rng.choice(self._operations)))
        elif choice == 2 and op.inputs:
            del op.inputs[rng.choice(sorted(op.inputs))]
        else:
            other = rng.choice(block.operations)
            for key in sorted(other.inputs)[:1]:
                op.inputs[key].CopyFrom(other.inputs[key])

    def _block(self, op: Any, block: Any, rng: Random) -> None:
        """Removes, repeats or moves an operation, or what the block returns."""
        index, choice = rng.randrange(len(block.operations)), rng.randrange(5)
        if choice == 0:
            del block.operations[index]
        elif choice == 1:
            block.operations.add().CopyFrom(op)
        elif choice == 2:
            other = rng.randrange(len(block.operations))
            first, second = type(op)(), type(op)()
            first.CopyFrom(block.operations[index])
            second.CopyFrom(block.operations[other])
            block.operations[index].CopyFrom(second)
            block.operations[other].CopyFrom(first)
        elif choice == 3 and block.outputs:
            names = [o.name for other in block.operations for o in other.outputs]
            block.outputs[rng.randrange(len(block.outputs))] = rng.choice(names or [""])
        else:
            copy = type(op)()
            copy.CopyFrom(block.operations[rng.randrange(len(block.operations))])
            block.operations[index].CopyFrom(copy)

    def _descend(self, message: Any, rng: Random) -> None:
        """Goes down at random and damages the field that it ends at."""
        while True:
            fields = message.ListFields()
            if not fields:
                self._set_anything(message, rng)
                return
            descriptor, value = rng.choice(fields)
            if _is_map(descriptor):
                if self._mutate_map(descriptor, value, rng):
                    return
                key = rng.choice(sorted(value))
                if not hasattr(value[key], "ListFields"):
                    value[key] = self._scalar_of(value[key], rng)
                    return
                message = value[key]
            elif descriptor.is_repeated:
                if rng.random() < 0.25 or descriptor.message_type is None:
                    self._mutate_list(descriptor, value, rng)
                    return
                message = rng.choice(value)
            elif descriptor.message_type is not None:
                if rng.random() < 0.1:
                    message.ClearField(descriptor.name)
                    return
                message = value
            else:
                setattr(message, descriptor.name, self._scalar(descriptor, value, rng))
                return

    def _set_anything(self, message: Any, rng: Random) -> None:
        """Sets a field of a message that has none set."""
        plain = [f for f in message.DESCRIPTOR.fields if f.message_type is None and not f.is_repeated]
        if plain:
            descriptor = rng.choice(plain)
            setattr(message, descriptor.name, self._scalar(descriptor, getattr(message, descriptor.name), rng))

    def _mutate_map(self, descriptor: Any, value: Any, rng: Random) -> bool:
        """Sometimes removes, copies or renames an entry; tells whether it did."""
        if rng.random() > 0.15:
            return False
        key = rng.choice(sorted(value))
        if rng.random() < 0.4:
            del value[key]
            return True
        new = rng.choice([*sorted(value), "", "main", "x"])
        if hasattr(value[key], "CopyFrom"):
            copy = type(value[key])()
            copy.CopyFrom(value[key])
            value[new].CopyFrom(copy)
        return True

    def _mutate_list(self, descriptor: Any, value: Any, rng: Random) -> None:
        index, choice = rng.randrange(len(value)), rng.randrange(4)
        if choice == 0:
            del value[index]
        elif choice == 1 and descriptor.message_type is not None:
            value.add().CopyFrom(value[index])
        elif choice == 1:
            value.extend([value[index]] * rng.choice((1, 3, 1000)))
        elif choice == 2 and descriptor.message_type is None:
            value[index] = self._scalar(descriptor, value[index], rng)
        else:
            del value[rng.randrange(len(value)) :]

    def _scalar(self, descriptor: Any, value: Any, rng: Random) -> Any:
        if descriptor.cpp_type in _BOUNDS or descriptor.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            low, high = _BOUNDS.get(descriptor.cpp_type, (0, 50))
            new = rng.choice((rng.choice(_INTEGERS), value + 1, value - 1, value * 2, -value))
            return min(max(new, low), high)
        return self._scalar_of(value, rng)

    def _scalar_of(self, value: Any, rng: Random) -> Any:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return rng.choice(_INTEGERS) & 0x7FFFFFFF
        if isinstance(value, float):
            return rng.choice((*_FLOATS, value * 2, -value))
        if isinstance(value, bytes):
            return damaged(value, rng)
        return rng.choice(
            (*_PATHS, "", value + "_", value[:-1], value * 2, "é\n", rng.choice(self._operations), "fp16")
        )


def _is_map(descriptor: Any) -> bool:
    return descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry


def damaged(data: bytes, rng: Random) -> bytes:
    """Flips bits, cuts off, repeats, or overwrites a part with another."""
    result = bytearray(data)
    choice = rng.randrange(5)
    if not result or choice == 0:
        return bytes(result[: rng.randrange(len(result) + 1)])
    if choice == 1:
        at = rng.randrange(len(result))
        return bytes(result[:at] + result[at : at + rng.randrange(64)] + result[at:])
    if choice == 2:
        start, to, size = rng.randrange(len(result)), rng.randrange(len(result)), rng.randrange(1, 65)
        result[to : to + size] = result[start : start + size]
        return bytes(result)
    for _ in range(rng.choice((1, 1, 2, 8))):
        result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)
    return bytes(result)


def _other_record(data: bytes, rng: Random) -> bytes:
    """Lets a record of a weight file lie about the type, size, or place of its data."""
    result = bytearray(data)
    places = [at for at in range(64, len(result) - 63, 64) if result[at : at + 4] == b"\xef\xbe\xad\xde"]
    if not places:
        return damaged(data, rng)
    at = rng.choice(places)
    record = list(struct.unpack_from("<IIQQQ", result, at))
    field = rng.randrange(5)
    new = rng.choice((rng.choice(_INTEGERS), record[field] + 1, record[field] * 2, len(result), len(result) - at))
    record[field] = new & (0xFFFFFFFF if field < 2 else 0xFFFFFFFFFFFFFFFF)
    struct.pack_into("<IIQQQ", result, at, *record)
    return bytes(result)


def _other_path(manifest: bytes, rng: Random) -> bytes:
    content = json.loads(manifest)
    item = rng.choice(list(content["itemInfoEntries"].values()))
    item["path"] = rng.choice((*_PATHS, item["path"] + "/", "com.apple.CoreML", "com.apple.CoreML/weights", 7, None))
    return json.dumps(content).encode()
