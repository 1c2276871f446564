"""Values of fp16 that stay in fp16 between operations, where nothing looks at them.

A program computes in float32 and rounds each result of type fp16: to fp16 and back, two passes over the numbers. Most
results are then read by operations that torch has for fp16 as well, which compute in float32 and round once, and so
give the same bits:

    mul ─► (fp16) ─► (float32) ─► add      becomes      mul ─► (fp16) ─► add of fp16

So a result that is rounded stays fp16, moves of it move fp16, and sums and products of it are made of it. What takes
float32 gets a copy in float32, made once for all who need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from optimum_ane.runtimes.portable.graph import Node, Value
from optimum_ane.runtimes.portable.values import Constant

MOVES = frozenset(
    {
        *("reshape", "transpose", "squeeze", "expand_dims", "split", "slice_by_index", "slice_by_size"),
        *("concat", "stack", "tile", "identity"),
    }
)
"""Operations that move numbers of any type, whose first parameter is what they move."""
ARITHMETIC = frozenset({"add", "sub", "mul", "silu", "gelu"})
"""Operations that torch computes of fp16 in float32, and rounds once."""
_MOVED = ("x", "values")
_WRITTEN = 1
"""Which operand of an update is written into the first one, of whichever type."""


@dataclass(frozen=True)
class Raw:
    """An operation before its results are rounded.

    Attributes:
        call: Takes the operands in order.
        gives_half: Whether its one result is rounded to fp16, or is in fp16 already.
        takes: Operands of which type: float32; fp16; fp16 where they are in it already; as they are.
    """

    call: Callable[..., Any]
    gives_half: bool
    takes: Literal["float", "half", "either", "any"] = "float"


class Conversion(NamedTuple):
    """A value in another type.

    Attributes:
        source: The slot of the value.
        result: The slot of the copy.
        call: Makes the one of the other.
    """

    source: int
    result: int
    call: Callable[[Tensor], Tensor]


class Change(NamedTuple):
    """How an operation is to run.

    Attributes:
        conversions: What it needs that has not been converted yet.
        operands: The slots of its operands.
        call: What takes them instead of the call that there was; None to keep that.
    """

    conversions: list[Conversion]
    operands: tuple[int, ...]
    call: Callable[..., Any] | None


class HalfValues:
    """Decides for each operation of a list, in order, in which type it takes and gives its values.

    Args:
        initial: The values before the first operation, by slot; slots are added to it.
        halves: The slots of values that are declared as fp16.
        constants: The slots of constants.
    """

    def __init__(self, initial: list[Any], halves: Collection[int], constants: Collection[int]) -> None:
        self._initial, self._halves, self._constants = initial, halves, constants
        self._in_half: set[int] = set()
        self._other: dict[int, int] = {}

    def take(self, node: Node, operands: tuple[int, ...], results: int | tuple[int, ...], raw: Raw | None) -> Change:
        """Takes the next operation.

        Args:
            node: The operation.
            operands: The slots of its operands.
            results: The slot of its result, or the slots of its results.
            raw: What it computes before rounding; None where its call is to be kept.
        """
        given = results if isinstance(results, tuple) else (results,)
        if raw is None or not given or not all(slot in self._halves for slot in given):
            return self._change(node, operands, None, to_half=False)
        if raw.takes == "half" or (raw.takes == "either" and self._has_half_operands(node, operands)):
            self._in_half.update(given)
            return self._change(node, operands, raw.call, to_half=True)
        if raw.gives_half:
            self._in_half.update(given)
            call = _in_half(raw.call)
            if raw.takes == "any":
                return Change([], operands, call)
            return self._change(node, operands, call, to_half=False)
        return self._change(node, operands, None, to_half=False)

    def in_float(self, slots: Sequence[int]) -> tuple[list[int], list[Conversion]]:
        """Returns the slots of these values in float32, and the conversions that this needs."""
        conversions: list[Conversion] = []
        return [self._slot(slot, False, conversions) for slot in slots], conversions

    def _has_half_operands(self, node: Node, operands: tuple[int, ...]) -> bool:
        """Whether an operation that takes either type would otherwise have to be given a copy in float32."""
        if node.op in MOVES:
            moved = operands[: _moved(node)]
            return bool(moved) and all(slot in self._in_half for slot in moved)
        return all(slot in self._halves for slot in operands) and any(slot in self._in_half for slot in operands)

    def _change(
        self, node: Node, operands: tuple[int, ...], call: Callable[..., Any] | None, *, to_half: bool
    ) -> Change:
        conversions: list[Conversion] = []
        as_it_is = operands[_WRITTEN] if node.op == "slice_update" else None
        slots = [slot if slot == as_it_is else self._slot(slot, to_half, conversions) for slot in operands]
        return Change(conversions, tuple(slots), call)

    def _slot(self, slot: int, to_half: bool, conversions: list[Conversion]) -> int:
        """The slot of a value in one of the two types; a conversion is added where it has none yet."""
        if slot not in self._halves or (slot in self._in_half) is to_half:
            return slot
        if slot not in self._other:
            convert = Tensor.half if to_half else Tensor.float
            other = self._other[slot] = len(self._initial)
            self._initial.append(None)
            if slot in self._constants:
                self._initial[other] = convert(self._initial[slot])
            else:
                conversions.append(Conversion(slot, other, convert))
        return self._other[slot]


def _moved(node: Node) -> int:
    """How many values an operation moves; they are its first operands."""
    for name in _MOVED:
        operand = node.inputs.get(name)
        if operand is not None:
            return len(operand) if isinstance(operand, tuple) else 1
    return 0


def _in_half(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what gives the result of a call in fp16."""

    def rounded(*operands: Any) -> Any:
        value = call(*operands)
        return (value[0] if value.__class__ is tuple else value).half()

    return rounded


def declared_halves(slots: Mapping[Value | Constant, int]) -> set[int]:
    """Returns the slots of values that are declared as fp16."""
    return {slot for value, slot in slots.items() if value.type is not None and value.type.dtype.name == "float16"}
