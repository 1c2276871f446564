"""A function of an ML Program as a graph: what the protobuf says, with names resolved and constants attached.

A pass may rewrite a graph before `program.py` binds it to functions.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.constexpr import FORMS, decoded
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant, TensorType, constant, tensor_type

_MAX_BLOCK_DEPTH = 64


@dataclass(eq=False, slots=True)
class Value:
    """A value that the program computes, or an input of it.

    Attributes:
        name: Its name in the program.
        type: Its declared type; None for strings and dictionaries.
    """

    name: str
    type: TensorType | None


Operand = Value | Constant | tuple["Value | Constant", ...]
Scope = ChainMap[str, Value | Constant]


@dataclass(eq=False, slots=True)
class Node:
    """One operation.

    Attributes:
        op: MIL's name of the operation.
        inputs: The arguments by parameter. A tuple where the protobuf binds several values to one parameter.
        outputs: What it computes.
        blocks: The nested blocks of control flow.
    """

    op: str
    inputs: dict[str, Operand]
    outputs: list[Value]
    blocks: list[Graph] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the first output, by which messages speak of the operation."""
        return self.outputs[0].name if self.outputs else self.op


@dataclass(eq=False, slots=True)
class Graph:
    """A function or a block of one: nodes in the order in which they run.

    Attributes:
        inputs: The inputs, in order.
        nodes: The operations; constants left out, and compressed weights, which are constants as well.
        outputs: The values returned, in order.
        names: Their names.
    """

    inputs: list[Value]
    nodes: list[Node]
    outputs: list[Value | Constant]
    names: list[str] = field(default_factory=list)


def values_of(operand: Operand) -> Iterator[Value]:
    """Yields the values of an operand that the program computes."""
    for item in operand if isinstance(operand, tuple) else (operand,):
        if isinstance(item, Value):
            yield item


def read_function(package: Package, name: str) -> Graph:
    """Reads one function of a package's program.

    Args:
        package: The package.
        name: The function's name.

    Returns:
        Its graph.

    Raises:
        PackageError: No such function, a name that nothing defines, or a value that cannot be read.
    """
    program = package.spec.mlProgram
    if name not in program.functions:
        known = ", ".join(sorted(program.functions)) or "none"
        raise PackageError(f"{package.path}: no function {name!r} in the program; it has: {known}")
    function = program.functions[name]
    if function.opset not in function.block_specializations:
        raise PackageError(f"{package.path}: function {name!r} has no block for its opset {function.opset!r}")
    inputs = [Value(i.name, tensor_type(i.type, i.name)) for i in function.inputs]
    scope: Scope = ChainMap()
    _define(scope, inputs, package, set())
    return _read_block(function.block_specializations[function.opset], inputs, scope, package, 0)


def _read_block(proto: Any, inputs: list[Value], outer: Scope, package: Package, depth: int) -> Graph:
    """Reads a block; names of the outer scope are visible in it, its own are not outside."""
    if depth > _MAX_BLOCK_DEPTH:
        raise PackageError(f"{package.path}: blocks nested deeper than {_MAX_BLOCK_DEPTH}")
    # A child of the surroundings and no copy: many small blocks in a large program would take for ever.
    scope = outer.new_child()
    nodes = []
    own = {value.name for value in inputs}
    for op in proto.operations:
        outputs = [Value(o.name, tensor_type(o.type, o.name)) for o in op.outputs]
        if op.type == "const":
            if len(outputs) != 1 or "val" not in op.attributes:
                raise PackageError(f"{package.path}: a const without its value at {[o.name for o in outputs]}")
            _define(scope, outputs, package, own)
            _name(scope, outputs, [constant(op.attributes["val"], outputs[0].name, package.weights)])
            continue
        where = outputs[0].name if outputs else op.type
        arguments: dict[str, Operand] = {}
        if op.type.startswith("constexpr_"):
            # iOS 16 states these weights as attributes, iOS 18 as inputs. Elsewhere attributes are notes.
            for key, value in op.attributes.items():
                if key != "name":
                    arguments[key] = constant(value, where, package.weights)
        for key, argument in op.inputs.items():
            bound = tuple(_resolve(b, scope, where, package) for b in argument.arguments)
            arguments[key] = bound[0] if len(bound) == 1 else bound
        if op.type in FORMS:
            types = [output.type for output in outputs]
            weights = decoded(op.type, arguments, types, f"{package.path}: {op.type} at {where!r}")
            _define(scope, outputs, package, own)
            _name(scope, outputs, weights)
            continue
        blocks = []
        for block in op.blocks:
            taken = [Value(i.name, tensor_type(i.type, i.name)) for i in block.inputs]
            inner = scope.new_child()
            _define(inner, taken, package, set())
            blocks.append(_read_block(block, taken, inner, package, depth + 1))
        nodes.append(Node(op.type, arguments, outputs, blocks))
        _define(scope, outputs, package, own)
    results = []
    for name in proto.outputs:
        if name not in scope:
            raise PackageError(f"{package.path}: the program returns {name!r}, which nothing defines")
        results.append(scope[name])
    return Graph(inputs, nodes, results, list(proto.outputs))


def _resolve(binding: Any, scope: Scope, where: str, package: Package) -> Value | Constant:
    """Finds what a binding stands for: a name, or a value in place."""
    if binding.WhichOneof("binding") == "value":
        return constant(binding.value, where, package.weights)
    if binding.name not in scope:
        raise PackageError(f"{package.path}: {where!r} uses {binding.name!r}, which nothing before it defines")
    return scope[binding.name]


def _name(scope: Scope, outputs: list[Value], constants: list[Constant]) -> None:
    """Binds constants to their names; one that several names share keeps the first."""
    for output, value in zip(outputs, constants, strict=True):
        scope[output.name] = value
        value.name = value.name or output.name


def _define(scope: Scope, values: list[Value], package: Package, own: set[str]) -> None:
    """Adds values to a scope; a block may hide a name of its surroundings, but not define one of its own again.

    Args:
        scope: What is visible.
        values: What is new.
        package: For messages.
        own: The names that the block has defined so far; the new ones are added.
    """
    for value in values:
        if value.name in own:
            raise PackageError(f"{package.path}: {value.name!r} is defined twice")
        own.add(value.name)
        scope[value.name] = value
