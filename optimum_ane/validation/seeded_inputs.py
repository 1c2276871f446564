"""Inputs for a program of which only the program is known: random, seeded, and such that it can answer them.

A package declares the types of its inputs and not what they mean. What an integer may be is read off the program: an
index ends where the table ends that it looks up. An integer that looks nothing up is taken for a flag, as masks are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.runtimes.portable.graph import Graph, Node, Operand, Value
from optimum_ane.runtimes.portable.values import Constant
from optimum_ane.runtimes.session import TensorSpec

_PASSES_ON = frozenset(
    (
        "cast",
        "concat",
        "expand_dims",
        "identity",
        "reshape",
        "reverse",
        "slice_by_index",
        "slice_by_size",
        "split",
        "squeeze",
        "stack",
        "tile",
        "transpose",
    )
)
"""The operations that move integers about and leave their values as they are."""

_TABLES = {
    "gather": "x",
    "gather_along_axis": "x",
    "scatter": "data",
    "scatter_along_axis": "data",
}
"""The operations that look integers up, and what they look them up in."""

_MOST = 2**31 - 1


@dataclass
class Range:
    """What an integer input may be.

    Attributes:
        low: The least.
        high: One more than the greatest; None where nothing limits it.
    """

    low: int = 0
    high: int | None = None

    def narrow(self, low: int, high: int) -> None:
        """Takes in one more place where the input is looked up."""
        self.low, self.high = max(self.low, low), high if self.high is None else min(self.high, high)


def integer_ranges(graph: Graph) -> dict[str, Range]:
    """Finds what each integer input of a function may be, by the tables that it indexes.

    An input is followed through what moves it about, and through a constant that is added or subtracted, as positions
    have it; any other arithmetic ends the search.

    Args:
        graph: The function.
    """
    inputs = [value for value in graph.inputs if value.type is not None and value.type.dtype.is_integer]
    ranges = {value.name: Range() for value in inputs}
    came_from: dict[Value, tuple[str, int]] = {value: (value.name, 0) for value in inputs}
    _follow(graph, came_from, ranges)
    return ranges


def _follow(graph: Graph, came_from: dict[Value, tuple[str, int]], ranges: Mapping[str, Range]) -> None:
    for node in graph.nodes:
        for name, added, size in _look_ups(node, came_from):
            ranges[name].narrow(-added, size - added)
        source = _source(node, came_from)
        if source is not None:
            came_from.update(dict.fromkeys(node.outputs, source))
        for block in node.blocks:
            _follow(block, came_from, ranges)


def _look_ups(node: Node, came_from: Mapping[Value, tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Yields the inputs that an operation looks up: name, what was added to it, and the size of the table."""
    indices = node.inputs.get("indices")
    if not isinstance(indices, Value) or indices not in came_from:
        return
    size = None
    if node.op in _TABLES:
        shape, axis = _shape(node.inputs.get(_TABLES[node.op])), _integer(node.inputs.get("axis"), 0)
        size = shape[axis] if shape and axis is not None and -len(shape) <= axis < len(shape) else None
    elif node.op in ("gather_nd", "scatter_nd"):
        shape = _shape(node.inputs.get("x" if node.op == "gather_nd" else "data"))
        depth = indices.type.shape[-1] if indices.type is not None and indices.type.shape else 1
        size = min(shape[:depth], default=None) if shape else None
    elif node.op == "one_hot":
        size = _integer(node.inputs.get("one_hot_vector_size"), None)
    if size is not None and size > 0:
        yield (*came_from[indices], size)


def _source(node: Node, came_from: Mapping[Value, tuple[str, int]]) -> tuple[str, int] | None:
    """Which input the result of an operation holds the values of, and what was added to them."""
    operands = [item for operand in node.inputs.values() for item in _items(operand)]
    known = [came_from[item] for item in operands if isinstance(item, Value) and item in came_from]
    if not known or any(output.type is None or not output.type.dtype.is_integer for output in node.outputs):
        return None
    if node.op in _PASSES_ON:
        return known[0]
    if node.op == "select":  # where an index is negative it counts from the end: the index itself comes first
        chosen = (node.inputs["a"], node.inputs["b"])
        return next((came_from[i] for i in chosen if isinstance(i, Value) and i in came_from), None)
    if node.op in ("add", "sub"):
        x, y = node.inputs["x"], node.inputs["y"]
        number = _integer(y if isinstance(y, Constant) else x, None)
        if number is None or (node.op == "sub" and not isinstance(y, Constant)):
            return None
        name, added = known[0]
        return name, added + (number if node.op == "add" else -number)
    return None


def _items(operand: Operand) -> tuple[Value | Constant, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _shape(operand: Operand | None) -> tuple[int, ...]:
    return () if operand is None or isinstance(operand, tuple) or operand.type is None else operand.type.shape


def _integer(operand: Operand | None, otherwise: int | None) -> int | None:
    """The one integer that a constant is; None if it is not known or several."""
    if operand is None:
        return otherwise
    if not isinstance(operand, Constant) or operand.type is None or not operand.type.dtype.is_integer:
        return None
    numbers = {int(number) for number in operand.array().reshape(-1)[:1024]} if _is_small(operand) else set()
    return numbers.pop() if len(numbers) == 1 else None


def _is_small(constant: Constant) -> bool:
    return constant.type is not None and int(np.prod(constant.type.shape)) <= 1024


def seeded_inputs(
    specs: Mapping[str, TensorSpec], ranges: Mapping[str, Range], number: int, *, cautious: bool = False
) -> dict[str, np.ndarray]:
    """Makes inputs of the declared types and shapes, the same for the same number.

    Floats are normally distributed, pixels the whole numbers of eight bits, looked-up integers any of their range.
    Flags are ones up to a length and zeros after it, as masks of padding are: of the whole input the first time, of
    one element the second, and of a part from then on.

    Args:
        specs: The inputs.
        ranges: Of the integers, from `integer_ranges`.
        number: Which ones.
        cautious: Floats between 0 and 1, and integers 0 or 1, for a program that fails with more.

    Raises:
        UnsupportedModelError: An input is no array of numbers.
    """
    generator = np.random.default_rng(number)
    arrays = {}
    for name, spec in specs.items():
        if spec.dtype in ("string", "dictionary"):
            raise UnsupportedModelError(f"input {name!r} is a {spec.dtype}, which cannot be made up; give --inputs")
        if spec.image:
            high = 2 if spec.image == "GRAYSCALE_FLOAT16" else 256
            arrays[name] = generator.integers(0, high, spec.shape).astype(spec.dtype)
        elif np.dtype(spec.dtype).kind in "biu":
            arrays[name] = _integers(spec, ranges.get(name, Range()), number, generator, cautious)
        else:
            made = generator.random(spec.shape) if cautious else generator.standard_normal(spec.shape)
            arrays[name] = np.asarray(made).astype(spec.dtype)
    return arrays


def _integers(
    spec: TensorSpec, range_: Range, number: int, generator: np.random.Generator, cautious: bool
) -> np.ndarray:
    if range_.high is None:
        extent = spec.shape[-1] if spec.shape else 1
        length = (extent, 1)[number] if number < 2 else 1 + int(generator.integers(0, extent))
        return np.broadcast_to(np.arange(extent) < length, spec.shape or ()).astype(spec.dtype).copy()
    high = min(range_.high, _MOST)
    if cautious:
        high = min(high, range_.low + 2)
    return np.asarray(generator.integers(range_.low, max(high, range_.low + 1), spec.shape)).astype(spec.dtype)
