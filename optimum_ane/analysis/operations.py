"""What an ML Program consists of, for analysis: operations in order, with types, shapes, arithmetic and stored bytes.

Any ML Program is read, also one with operations that no runtime here executes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from optimum_ane.analysis.flops import count_flops
from optimum_ane.analysis.flops import volume as lower_volume
from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.graph import Graph, Node, Operand, Value, read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant, by_name, volume

MAX_ATTRIBUTE = 64
"""A constant of at most this many elements is an attribute as well as an operand."""

Flexibility = Literal["none", "enumerated", "range"]

STATE_WRITES = frozenset(("write_state", "coreml_update_state"))
"""The types that put a value into a state; the former has no result."""

OTHER = "other"
"""The dtype of strings, lists and dictionaries, which are no tensors."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the program. The same value is the same object: two are equal only if they are one.

    Attributes:
        name: The value's name; of a constant that is stated where it is used, that of its user and parameter.
        dtype: `"float16"`, `"int32"`, …; `"other"` for strings, lists and dictionaries.
        shape: The extents, None where one is known only when the program runs.
        is_constant: Whether it is known when the program is loaded.
        stored_bytes: Of a constant: what it takes in the package as it is stored, compressed or not. None for what
            the program computes.
        in_file: Whether it lies in the weight file, or part of it does.
        stored_dtype: Of a constant: the type of most of what is stored, `"uint4"` say; iOS 16's packed forms state
            `"uint8"` whatever they pack.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    is_constant: bool = False
    stored_bytes: int | None = None
    in_file: bool = False
    stored_dtype: str | None = None

    @property
    def elements(self) -> int:
        """The number of elements; an unknown extent counts as 1."""
        return lower_volume(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all elements in their type, side by side; an unknown extent counts as 1."""
        return 0 if self.dtype == OTHER else (self.elements * by_name(self.dtype).bits + 7) // 8


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the program. Constants are none.

    Attributes:
        index: Its place in the program's order.
        name: The name of its first output.
        type: MIL's type.
        inputs: The operands by parameter, constants included.
        outputs: The results.
        attributes: The values of small constant arguments by parameter.
        flops: Arithmetic, 2 per multiply-add; see `analysis.flops`. Of a loop's body: one turn.
        weight_bytes: What the constants that it reads from the weight file take there.
        depth: 0 for the function itself, 1 for the body of a loop or a branch in it, and so on.
    """

    index: int
    name: str
    type: str
    inputs: Mapping[str, tuple[Tensor, ...]]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]
    flops: int
    weight_bytes: int
    depth: int = 0

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """Every operand that the program computes or is given, parameter by parameter."""
        return tuple(t for tensors in self.inputs.values() for t in tensors if not t.is_constant)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Every operand that lies in the weight file."""
        return tuple(t for tensors in self.inputs.values() for t in tensors if t.in_file)


@dataclass(frozen=True, eq=False)
class Program:
    """One function of a package.

    Attributes:
        path: The `.mlpackage`.
        function: The function's name.
        operations: In the order of the program; the body of a loop or a branch right after its operation.
        inputs: The function's inputs, states left out.
        outputs: What it returns.
        states: The states that it takes.
        weights: Every constant of the weight file that an operation reads, once.
        weight_bytes: What all of them take together; what several share is counted once.
        flexibility: Whether the package declares inputs of flexible shape: `"none"`, `"enumerated"` or `"range"`.
        others: The package's other functions.
    """

    path: Path
    function: str
    operations: tuple[Operation, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    weight_bytes: int
    flexibility: Flexibility = "none"
    others: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """All arithmetic of one prediction; every loop turns once."""
        return sum(operation.flops for operation in self.operations)

    @property
    def has_unknown_shapes(self) -> bool:
        """Whether an extent is known only when the program runs: then numbers are lower bounds."""
        tensors = [*self.inputs, *(output for operation in self.operations for output in operation.outputs)]
        return any(extent is None for tensor in tensors for extent in tensor.shape)


def read_program(mlpackage: str | Path, function: str | None = None) -> Program:
    """Reads one function of a package.

    Args:
        mlpackage: The `.mlpackage` folder.
        function: The function's name; None takes the package's default.

    Returns:
        Its operations and what they read.

    Raises:
        PackageError: The package is missing or damaged, holds no ML Program, or has no such function.
    """
    package = Package(mlpackage)
    name = function or package.spec.description.defaultFunctionName or "main"
    graph = read_function(package, name)
    states = {
        i.name for i in package.spec.mlProgram.functions[name].inputs if i.type.WhichOneof("type") == "stateType"
    }
    reader = _Reader()
    operations = tuple(reader.operations(graph, 0))
    inputs = tuple(reader.tensor(value, value.name) for value in graph.inputs)
    outputs = zip(graph.outputs, graph.names, strict=True)
    return Program(
        path=package.path,
        function=name,
        operations=operations,
        inputs=tuple(tensor for tensor in inputs if tensor.name not in states),
        outputs=tuple(reader.tensor(value, output) for value, output in outputs),
        states=tuple(tensor for tensor in inputs if tensor.name in states),
        weights=reader.weights(),
        weight_bytes=reader.weight_bytes(),
        flexibility=_flexibility(package.spec.description, name),
        others=tuple(sorted(package.spec.mlProgram.functions.keys() - {name})),
    )


def _flexibility(description: Any, function: str) -> Flexibility:
    """Reads from a model's description which shapes its inputs may have; ranges outweigh enumerations."""
    own = [declared for declared in description.functions if declared.name == function]
    inputs = own[0].input if own else description.input
    kinds = {value.type.multiArrayType.WhichOneof("ShapeFlexibility") for value in inputs}
    if "shapeRange" in kinds:
        return "range"
    return "enumerated" if "enumeratedShapes" in kinds else "none"


_REQUIRED = {"slice_update": ("x", "update")}
"""Inputs that the analysis cannot do without; what else lacks some is taken as it is."""


class _Reader:
    """Turns graphs into operations; remembers which value became which tensor."""

    def __init__(self) -> None:
        self._tensors: dict[Value | Constant, Tensor] = {}
        self._index = 0

    def operations(self, graph: Graph, depth: int) -> Iterator[Operation]:
        """Yields the operations of a graph, each followed by those of its blocks."""
        for node in graph.nodes:
            yield self._operation(node, depth)
            for block in node.blocks:
                yield from self.operations(block, depth + 1)

    def _operation(self, node: Node, depth: int) -> Operation:
        inputs = {key: self._operands(node, key, operand) for key, operand in node.inputs.items()}
        lacking = [key for key in _REQUIRED.get(node.op, ()) if key not in inputs]
        if lacking:
            raise PackageError(
                f"the program is damaged: {node.op} {node.name!r:.100} lacks its input {lacking[0]}; export or "
                "download the package again"
            )
        outputs = tuple(self.tensor(value, value.name) for value in node.outputs)
        attributes = {
            key: operand.python()
            for key, operand in node.inputs.items()
            if isinstance(operand, Constant) and _is_attribute(operand)
        }
        shapes = {key: [tensor.shape for tensor in tensors] for key, tensors in inputs.items()}
        read = {tensor for tensors in inputs.values() for tensor in tensors if tensor.in_file}
        index = self._index
        self._index += 1
        return Operation(
            index=index,
            name=node.name,
            type=node.op,
            inputs=MappingProxyType(inputs),
            outputs=outputs,
            attributes=MappingProxyType(attributes),
            flops=count_flops(node.op, shapes, [output.shape for output in outputs], attributes),
            weight_bytes=sum(tensor.stored_bytes or 0 for tensor in read),
            depth=depth,
        )

    def _operands(self, node: Node, key: str, operand: Operand) -> tuple[Tensor, ...]:
        items = operand if isinstance(operand, tuple) else (operand,)
        tensors = (item for item in items if isinstance(item, Value) or item.type is not None)
        return tuple(self.tensor(item, f"{node.name}.{key}") for item in tensors)

    def tensor(self, value: Value | Constant, place: str) -> Tensor:
        """Returns the tensor of a value; `place` names a constant that has no name."""
        if value not in self._tensors:
            dtype = OTHER if value.type is None else value.type.dtype.name
            shape = () if value.type is None else tuple(None if n < 0 else n for n in value.type.shape)
            if isinstance(value, Constant):
                leaves = _leaves(value)
                in_file = any(leaf.in_file for leaf in leaves)
                tensor = Tensor(
                    value.name or place, dtype, shape, True, sum(map(_bytes, leaves)), in_file, _main_dtype(leaves)
                )
            else:
                tensor = Tensor(value.name, dtype, shape)
            self._tensors[value] = tensor
        return self._tensors[value]

    def weights(self) -> tuple[Tensor, ...]:
        """Returns the constants of the weight file seen so far."""
        return tuple(tensor for tensor in self._tensors.values() if tensor.in_file)

    def weight_bytes(self) -> int:
        """Returns what they take together: a table that two compressed weights share counts once."""
        held = [value for value, tensor in self._tensors.items() if isinstance(value, Constant) and tensor.in_file]
        return sum(map(_bytes, {leaf for value in held for leaf in _leaves(value)}))


def _is_attribute(value: Constant) -> bool:
    return not value.sources and (value.type is None or volume(value.type.shape) <= MAX_ATTRIBUTE)


def _leaves(value: Constant) -> set[Constant]:
    """Returns what a constant is stored as: itself, or what a compressed weight is made of."""
    if not value.sources:
        return {value}
    return {leaf for source in value.sources for leaf in _leaves(source)}


def _main_dtype(leaves: set[Constant]) -> str:
    """Returns the element type of the largest part that a constant is stored as."""
    types = [leaf.type for leaf in sorted(leaves, key=_bytes) if leaf.type is not None]
    return types[-1].dtype.name if types else OTHER


def _bytes(leaf: Constant) -> int:
    return 0 if leaf.type is None else (volume(leaf.type.shape) * leaf.type.dtype.bits + 7) // 8


def count_operations(mlpackage: Path, function: str | None = None) -> dict[str, int]:
    """Counts the operations of a function by type, most frequent first.

    Constants are left out, compressed ones as well: what decodes a weight is part of it.

    Args:
        mlpackage: The `.mlpackage`.
        function: The function's name; None takes the package's default.
    """
    spec = Package(mlpackage).spec
    block = spec.mlProgram.functions[function or spec.description.defaultFunctionName or "main"]
    types = (operation.type for operation in block.block_specializations[block.opset].operations)
    counted = Counter(kind for kind in types if kind != "const" and not kind.startswith("constexpr_"))
    return dict(counted.most_common())
