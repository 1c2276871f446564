"""Looks at each operation before it runs, so that a program is refused before it has taken the machine's memory.

The sizes of a program's values follow from the shapes of its inputs, unless an operation takes a size that was
computed from data. So a prediction with shapes that have gone through before is not looked at again, and costs
nothing; one of a program with sizes that depend on data is looked at each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable import limits, sizes_spatial, sizes_stepwise  # noqa: F401  # register their sizes
from optimum_ane.runtimes.portable.control import CONTROL
from optimum_ane.runtimes.portable.graph import Graph, Node, Operand, Value, values_of
from optimum_ane.runtimes.portable.limits import BUDGET, LimitError
from optimum_ane.runtimes.portable.registry import OPERATIONS, Role
from optimum_ane.runtimes.portable.sizes import SIZES, Shape, cost
from optimum_ane.runtimes.portable.tensor_list import TensorList
from optimum_ane.runtimes.portable.values import Constant

if TYPE_CHECKING:
    from optimum_ane.runtimes.portable.program import Step

_MAX_REMEMBERED = 256
_BYTES = 16  # of an element: a result in eight bytes, as torch makes integers, and what is made of it
_STEP_WORK = 2**12  # what it takes to run even the smallest operation, in multiplications
_NOT_LOOKED_AT = CONTROL | {"read_state", "write_state"}
_STATES = frozenset({"read_state", "write_state"})
# Wherever it writes, the result has the shape of x: decoders write into a cache at a place that is computed.
_OF_ONE_SIZE = frozenset({"slice_update"})


class Known:
    """The operands of an operation as far as they are known at load: the declared shapes."""

    def __init__(self, node: Node) -> None:
        self._inputs = node.inputs

    def shapes(self, name: str) -> list[Shape]:
        """Returns the declared shapes of the tensors bound to a parameter."""
        return [self._shape(item) for item in _items(self._inputs.get(name))]

    def python(self, name: str, default: Any = None) -> Any:
        """Returns the value of a constant parameter."""
        operand = self._inputs.get(name)
        if operand is None:
            return default
        if isinstance(operand, tuple):
            return each(operand, name)
        if not isinstance(operand, Constant):
            raise _Unknown
        return operand.python()

    def all(self) -> list[Shape]:
        """Returns the declared shapes of all tensors."""
        return [
            self._shape(item)
            for operand in self._inputs.values()
            for item in _items(operand)
            if not (isinstance(item, Constant) and item.type is None)
        ]

    def _shape(self, item: Value | Constant) -> Shape:
        if item.type is None or min(item.type.shape, default=0) < 0:
            raise _Unknown
        return item.type.shape


class _Unknown(Exception):  # noqa: N818
    """A size is not known at load: what the operation makes is seen when it runs."""


class _Present:
    """The operands of an operation that is about to run."""

    def __init__(self, node: Node, places: Mapping[Value | Constant, int], slots: Sequence[Any]) -> None:
        self._inputs, self._places, self._slots = node.inputs, places, slots

    def _value(self, item: Value | Constant) -> Any:
        place = self._places.get(item)
        return item if place is None or isinstance(item, Constant) else self._slots[place]

    def shapes(self, name: str) -> list[Shape]:
        """Returns the shapes of the tensors bound to a parameter."""
        return [shape for item in _items(self._inputs.get(name)) if (shape := _shape(self._value(item))) is not None]

    def python(self, name: str, default: Any = None) -> Any:
        """Returns the value of a parameter."""
        operand = self._inputs.get(name)
        if operand is None:
            return default
        if isinstance(operand, tuple):
            return each(operand, name)
        value = self._value(operand)
        if isinstance(value, Constant):
            return value.python()
        return limited_list(value, name) if isinstance(value, Tensor) else value

    def all(self) -> list[Shape]:
        """Returns the shapes of all tensors."""
        found = []
        for operand in self._inputs.values():
            for item in _items(operand):
                shape = _shape(self._value(item))
                if shape is not None:
                    found.append(shape)
        return found


def limited_list(tensor: Tensor, name: str) -> Any:
    """Returns a computed parameter as Python numbers, which take many times the memory of a tensor."""
    if tensor.numel() > limits.MAX_PARAMETER:
        raise LimitError(f"{name} has {tensor.numel()} elements; at most {limits.MAX_PARAMETER} are taken")
    return tensor.tolist()


def each(operand: Operand, name: str) -> list[Any]:
    """Returns the values of a variadic parameter that are all known at load; one that is a list is that list.

    Raises:
        ValueError: One is computed.
    """
    items = _items(operand)
    if not all(isinstance(item, Constant) for item in items):
        raise ValueError(f"{name} is bound to {len(items)} values, some of them computed")
    values = [item.python() for item in items if isinstance(item, Constant)]
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _items(operand: Operand | None) -> tuple[Value | Constant, ...]:
    if operand is None:
        return ()
    return operand if isinstance(operand, tuple) else (operand,)


def _shape(value: Any) -> Shape | None:
    if isinstance(value, Constant):
        return None if value.type is None else value.type.shape
    return tuple(value.shape) if isinstance(value, Tensor | TensorList) else None


class Guard:
    """Guards one function or block. It may be used by several threads."""

    def __init__(self, graph: Graph, places: Mapping[Value | Constant, int]) -> None:
        """Prepares for a program.

        Args:
            graph: The function or block.
            places: The slots of its values.
        """
        self._places = places
        self._always = depends_on_data(graph)
        self._seen: dict[Any, int] = {}

    def watch(self, inputs: Sequence[Any]) -> Watch | None:
        """Returns what looks at each operation of a run; None where a run with such inputs has gone through."""
        if self._always:
            return Watch(self._places, None, {})
        signature = tuple([getattr(value, "shape", None) for value in inputs])
        work = self._seen.get(signature)
        if work is None:
            return Watch(self._places, signature, self._seen)
        BUDGET.spend(work)
        return None


class Watch:
    """Looks at the operations of one run."""

    def __init__(self, places: Mapping[Value | Constant, int], signature: Any, seen: dict[Any, int]) -> None:
        self._places, self._signature, self._seen = places, signature, seen
        self._sizes: dict[int, int] = {}
        self._live = 0
        self._work = 0

    def before(self, step: Step, slots: Sequence[Any]) -> None:
        """Refuses an operation that would take too much.

        Raises:
            ValueError: It would, or its parameters are none that it can have.
        """
        if step.node.op in _NOT_LOOKED_AT:
            BUDGET.spend(_STEP_WORK)
            return
        elements, work = cost(step.node.op, _Present(step.node, self._places, slots))
        wanted, most = self._live + elements * _BYTES, limits.memory() // 2
        if wanted > most:
            raise LimitError(f"{wanted} bytes would be held at once; at most {most} are")
        self._work += work + _STEP_WORK
        BUDGET.spend(work + _STEP_WORK)

    def after(self, step: Step, slots: Sequence[Any]) -> None:
        """Counts what is held: the result is, what was read for the last time is not."""
        for slot in step.results if isinstance(step.results, tuple) else (step.results,):
            value = slots[slot]
            if isinstance(value, Tensor):
                # A view holds all of what it looks into.
                size = self._sizes[slot] = value.untyped_storage().nbytes() if not value.is_mkldnn else 0
                self._live += size
            elif isinstance(value, TensorList):
                self._sizes[slot] = value.nbytes
                self._live += value.nbytes
        for slot in step.frees:
            self._live -= self._sizes.pop(slot, 0)

    def done(self) -> None:
        """Notes that a run with such inputs has gone through."""
        if self._signature is not None:
            if len(self._seen) >= _MAX_REMEMBERED:
                self._seen.clear()
            self._seen[self._signature] = self._work


def depends_on_data(graph: Graph) -> bool:
    """Tells whether a size in a program may follow from anything but the shapes of its inputs."""
    shapes_only: set[Value] = set()
    for node in graph.nodes:
        if node.op in CONTROL or node.op == "non_zero":
            return True
        roles = OPERATIONS[node.op].roles
        values = [value for operand in node.inputs.values() for value in values_of(operand)]
        if node.op not in _STATES and (node.op == "shape" or all(value in shapes_only for value in values)):
            shapes_only.update(node.outputs)
        for name, operand in node.inputs.items():
            sets_size = roles.get(name) is Role.PYTHON and node.op not in _OF_ONE_SIZE
            if sets_size and any(value not in shapes_only for value in values_of(operand)):
                return True
    return False


def refuse_excess(graph: Graph, source: str) -> None:
    """Refuses at load what the declared shapes show to be too large, and constants that would not fit in memory.

    Raises:
        PackageError: Names the package and the operation.
    """
    held = 0
    counted: set[Any] = set()
    for node in _all_nodes(graph):
        try:
            if node.op in SIZES:
                elements, _ = cost(node.op, Known(node))
                if elements * _BYTES > limits.memory() // 2:
                    raise LimitError(f"a result of {elements} elements does not fit in memory")
        except _Unknown:
            continue
        except LimitError as error:
            raise PackageError(f"{source}: {node.op} at {node.name!r}: {error}") from error
        except (ValueError, TypeError, ArithmeticError, LookupError):
            continue  # what is wrong with it, the operation itself says best
        finally:
            for name, operand in node.inputs.items():
                for item in _items(operand):
                    # A weight is packed together with its bias: once for each.
                    key = (item, node.inputs.get("bias") if name == "weight" and _is_constant(node, "bias") else None)
                    if isinstance(item, Constant) and item.type is not None and key not in counted:
                        counted.add(key)
                        held += math.prod(item.type.shape) * item.type.dtype.carrier.itemsize
    if held > limits.memory():
        raise PackageError(f"{source}: the constants take {held} bytes of memory; there are {limits.memory()}")


def _is_constant(node: Node, name: str) -> bool:
    return isinstance(node.inputs.get(name), Constant)


def _all_nodes(graph: Graph) -> Iterator[Node]:
    pending = [graph]
    while pending:
        for node in pending.pop().nodes:
            yield node
            pending += node.blocks
