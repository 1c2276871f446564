"""The weights of a package: what reads each of them, and how they are found again after they were compressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.graph import Graph, Node, read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant, TensorType, volume
from optimum_ane.targets.coreml.multifunction import functions_of

_FLOATS = ("float16", "float32")
_MOST_STRIDE = 2


@dataclass(frozen=True)
class Weight:
    """A float weight of the weight file.

    Attributes:
        name: In the program; recipes name it so.
        function: The first function that reads it.
        dtype: `"float16"` or `"float32"`, of the decoded values.
        shape: The extents.
        stored_bytes: In the package.
        op_types: The types of the operations that read it, in any function, each once.
        readers: The names of these operations, each once.
        without_palette: Why it is left without a palette, whatever a recipe says; empty where it need not be.
    """

    name: str
    function: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int
    op_types: tuple[str, ...]
    readers: tuple[str, ...] = ()
    without_palette: str = ""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))


class StoredWeights:
    """The weights of a package's weight file, each once, however many functions read it.

    Attributes:
        package: The package.
        functions: The names of its functions, the default one first.
        weights: The float weights by label: the name, or `function/name` for what has a name that another function
            has for another weight.
        labels: The labels of what a function reads by its names there, for each function.
    """

    def __init__(self, mlpackage: Path) -> None:
        """Opens a package.

        Args:
            mlpackage: The `.mlpackage` folder.

        Raises:
            PackageError: It is damaged.
        """
        self.package = Package(mlpackage)
        self.functions = functions_of(self.package.spec)
        self.weights: dict[str, Weight] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self._constants: dict[str, Constant] = {}
        self._other: set[Constant] = set()
        self._operands: dict[str, list[str]] = {}
        seen: dict[tuple[Constant, ...], str] = {}
        op_types: dict[str, dict[str, None]] = {}
        readers: dict[str, dict[str, None]] = {}
        without_palette: dict[str, str] = {}
        for function in self.functions:
            self.labels[function], self._operands[function] = {}, []
            for node, name, constant in _constants(read_function(self.package, function)):
                if constant.type is None or constant.type.dtype.name not in _FLOATS:
                    self._other.add(constant)
                    continue
                key = tuple(leaf for leaf in leaves_of(constant) if leaf.in_file)
                if key not in seen:
                    seen[key] = label = name if name not in self.weights else f"{function}/{name}"
                    self._constants[label] = constant
                    self.weights[label] = _weight(name, function, constant, constant.type)
                self.labels[function][name] = seen[key]
                self._operands[function].append(seen[key])
                op_types.setdefault(seen[key], {})[node.op] = None
                readers.setdefault(seen[key], {})[node.name] = None
                without_palette[seen[key]] = without_palette.get(seen[key]) or _why_without_palette(node)
        self.weights = {
            label: replace(
                weight,
                op_types=tuple(op_types[label]),
                readers=tuple(readers[label]),
                without_palette=without_palette[label],
            )
            for label, weight in self.weights.items()
        }

    def in_package_of(self, function: str, single: StoredWeights) -> dict[str, str]:
        """The labels in a package of one function that was taken out of this one, by those here.

        Names may differ: of a weight that several functions read, the name in the first of them is known here.
        """
        return dict(zip(self._operands[function], single._operands[single.functions[0]], strict=True))

    def values(self, label: str) -> np.ndarray:
        """The decoded values of a weight, of its type and shape; anew for each call where it is compressed."""
        return self._constants[label].array()

    def constant(self, label: str) -> Constant:
        """A weight as the portable runtime reads it."""
        return self._constants[label]

    @property
    def stored_bytes(self) -> int:
        """What all weights take, integers included; a table that two compressed weights share counts once."""
        held = (*self._constants.values(), *self._other)
        return sum(map(bytes_of, {leaf for constant in held for leaf in leaves_of(constant)}))

    @property
    def float16_bytes(self) -> int:
        """What all weights take uncompressed in float16, integers in their own type."""
        floats = sum(2 * weight.elements for weight in self.weights.values())
        return floats + sum(map(bytes_of, self._other))


def find_again(before: StoredWeights, after: StoredWeights) -> dict[str, str]:
    """Finds each weight in a compressed package, where it may be called `name_quantized` or the like.

    coremltools keeps a weight's name and appends to it; it does not keep the names of the operations that read it.

    Args:
        before: The weights of the package as it was.
        after: Those of the compressed one, of the same functions.

    Returns:
        The labels in the compressed package by those before.

    Raises:
        PackageError: One is gone, has another shape, or is stored several times.
    """
    found: dict[str, str] = {}
    for function, names in before.labels.items():
        for name, label in after.labels.get(function, {}).items():
            stem = name
            while stem not in names and "_" in stem:
                stem = stem.rpartition("_")[0]
            if stem not in names or before.weights[names[stem]].shape != after.weights[label].shape:
                continue
            found.setdefault(names[stem], label)
    for label, weight in before.weights.items():
        if label not in found:
            raise PackageError(f"{after.package.path}: the weight {weight.name} is gone from the compressed program")
    surplus = set(after.weights) - set(found.values())
    if surplus and len(before.functions) > 1:
        raise PackageError(
            f"{after.package.path}: {min(surplus)} is stored beside what other functions read of the same weight; "
            "compress all functions of a package together"
        )
    return found


def leaves_of(constant: Constant) -> tuple[Constant, ...]:
    """What a constant is stored as, in order: itself, or what a compressed weight is made of."""
    if not constant.sources:
        return (constant,)
    return tuple(dict.fromkeys(leaf for source in constant.sources for leaf in leaves_of(source)))


def bytes_of(leaf: Constant) -> int:
    """What a stored array takes, without the record before it."""
    return 0 if leaf.type is None else (volume(leaf.type.shape) * leaf.type.dtype.bits + 7) // 8


def _why_without_palette(node: Node) -> str:
    """Why an operation's weight is left as it is by palettes, which keep it off the engine; empty where they do not.

    Sources: apple/coreai-models, neural_engine_rules.md, for strides; john-rocky/CoreML-LLM,
    docs/LFM2_CONVERSION_FINDINGS.md, for convolutions of each channel by itself.
    """
    if node.op != "conv":
        return ""
    strides, groups, weight = _known(node, "strides"), _known(node, "groups"), node.inputs.get("weight")
    if isinstance(strides, list) and max(strides) > _MOST_STRIDE:
        return (
            f"the engine takes a palette with strides up to {_MOST_STRIDE}, and this convolution's is {max(strides)}"
        )
    is_depthwise = isinstance(weight, Constant) and weight.type is not None and weight.type.shape[1] == 1
    if isinstance(groups, int) and groups > 1 and is_depthwise:
        return "a palette was seen to keep a convolution of each channel by itself off the engine"
    return ""


def _known(node: Node, parameter: str) -> Any:
    operand = node.inputs.get(parameter)
    return operand.python() if isinstance(operand, Constant) else None


def _constants(graph: Graph) -> Iterator[tuple[Node, str, Constant]]:
    """Yields what operations read of the weight file: the operation, the constant's name, and the constant."""
    for node in graph.nodes:
        # By name: two readings of the same program must agree on the order, and protobuf keeps none.
        for parameter, operand in sorted(node.inputs.items()):
            for item in operand if isinstance(operand, tuple) else (operand,):
                if isinstance(item, Constant) and any(leaf.in_file for leaf in leaves_of(item)):
                    yield node, item.name or f"{node.name}.{parameter}", item
        for block in node.blocks:
            yield from _constants(block)


def _weight(name: str, function: str, constant: Constant, type_: TensorType) -> Weight:
    return Weight(
        name=name,
        function=function,
        dtype=type_.dtype.name,
        shape=type_.shape,
        stored_bytes=sum(map(bytes_of, leaves_of(constant))),
        op_types=(),
    )
