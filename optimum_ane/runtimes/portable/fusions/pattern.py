"""How a graph is searched for operations that go together, and what is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from optimum_ane.runtimes.portable.graph import Graph, Node, Operand, Value, values_of
from optimum_ane.runtimes.portable.values import Constant, volume

_FLOATS = ("float16", "float32")
_MOST_NUMBERS = 16  # axes of a value


@dataclass(frozen=True)
class Fusion:
    """Operations that are computed together, in the place of the last of them.

    Attributes:
        nodes: The operations, the last one in the program's order at the end: its first result is theirs, others of it
            are read by nobody.
        operands: What they read of other operations.
        call: Computes that result from the operands, not yet rounded, and into new memory.
        once: What is computed from the last operand once for all fusions that share both, before the first of them;
            it is handed to `call` after the operands.
        takes: Operands of which type `call` takes where they are declared as fp16: float32, or either.
    """

    nodes: tuple[Node, ...]
    operands: tuple[Value, ...]
    call: Callable[..., Any]
    once: Callable[[Tensor], Any] | None = None
    takes: Literal["float", "any"] = "float"


class Pattern:
    """A graph, and who makes and reads its values.

    Attributes:
        nodes: The operations.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.nodes
        self._makers = {value: node for node in graph.nodes for value in node.outputs}
        self._uses = Counter(_read(graph))

    def uses(self, value: Value) -> int:
        """How often a value is read, in blocks inside and as a result of the graph included."""
        return self._uses[value]

    def maker(self, value: Operand | None) -> Node | None:
        """The operation that computes a value; None for inputs and constants."""
        return self._makers.get(value) if isinstance(value, Value) else None

    def only_for(self, value: Operand | None, op: str) -> Node | None:
        """The operation of this kind that computes a value which is read once; None where there is no such."""
        node = self.maker(value)
        return node if node is not None and node.op == op and self._uses[node.outputs[0]] == 1 else None


def number(node: Node, parameter: str) -> float | None:
    """A parameter that is one number known at load; None where it is missing or is none."""
    value = _python(node, parameter, 0)
    return value if isinstance(value, int | float) else None


def numbers(node: Node, parameter: str) -> list[int] | None:
    """A parameter that is a list of numbers known at load; None where it is missing or is none."""
    value = _python(node, parameter, 1)
    return value if isinstance(value, list) else None


def _python(node: Node, parameter: str, rank: int) -> Any:
    operand = node.inputs.get(parameter)
    if not isinstance(operand, Constant) or operand.type is None or len(operand.type.shape) != rank:
        return None
    return operand.python() if volume(operand.type.shape) <= _MOST_NUMBERS else None


def common_type(*values: Operand | None) -> str | None:
    """The type of floating-point numbers that all of these are declared with; None where there is none."""
    types = {None if not isinstance(v, Value | Constant) or v.type is None else v.type.dtype.name for v in values}
    return next(iter(types)) if len(types) == 1 and types <= {*_FLOATS} else None


def rounded(tensor: Tensor, rounds: bool) -> Tensor:
    """Rounds a float32 tensor to fp16 in its own memory, where that is asked for."""
    return tensor.copy_(tensor.half()) if rounds else tensor


def _read(graph: Graph) -> Iterator[Value]:
    """Yields each use of each value, those in blocks inside included."""
    yield from (value for value in graph.outputs if isinstance(value, Value))
    for node in graph.nodes:
        for operand in node.inputs.values():
            yield from values_of(operand)
        for block in node.blocks:
            yield from _read(block)
