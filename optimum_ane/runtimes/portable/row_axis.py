"""Whether the rows of a batch pass through a function without seeing each other, so that more may be run at once.

A function has a fixed shape, most often of one row. Of a short row, reading the weights and calling the operations
take longer than the arithmetic: in a DistilBERT of 6 layers of 384 channels a row of 32 tokens takes 16.3 ms on one
thread, and each of 8 that run at once 6.2.

What allows it is a proof on the graph. Axis 0 of every input holds the rows; an operation is known to leave it where
it is, and to make each row of its result of the same row of its operands and of what has no rows. An operation of
which that is not known, with the parameters that it has, ends the proof, and the function runs as declared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from optimum_ane.runtimes.portable.graph import Graph, Node, Operand, Value
from optimum_ane.runtimes.portable.values import Constant

MOST_ROWS = 8
"""More are hardly faster: of the model above each of 16 rows of 32 tokens takes 5.9 ms; of 128 tokens 31, not 26."""

MOST_ELEMENTS = 2**21
"""Of the largest value: 8 MiB, so that rows that run together neither leave the cache nor fill the memory."""


def rows_at_once(graph: Graph, declared: int) -> int:
    """Returns how many rows a function may be run with, at least those that it declares.

    Args:
        graph: The function.
        declared: The extent of axis 0 of its inputs.
    """
    if not _rows_are_apart(graph, declared):
        return declared
    largest = max(
        (math.prod(value.type.shape) for node in graph.nodes for value in node.outputs if value.type is not None),
        default=1,
    )
    return max(declared, min(MOST_ROWS, MOST_ELEMENTS * declared // max(1, largest)))


def _rows_are_apart(graph: Graph, rows: int) -> bool:
    """Carries out the proof: whether each row of every output follows from the same row of the inputs alone."""
    with_rows: set[Value] = set()
    for value in graph.inputs:
        if not _has_extent(value, rows):
            return False
        with_rows.add(value)
    for node in graph.nodes:
        if node.blocks:
            return False
        use = _Use(node, with_rows)
        if not use.reads_rows:
            continue  # the same whatever the rows are
        try:
            if node.op not in _RULES or not _RULES[node.op](use):
                return False
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return False  # what is wrong with its parameters, the operation itself says best
        if not all(_has_extent(value, rows) for value in node.outputs):
            return False
        with_rows.update(node.outputs)
    return bool(graph.outputs) and all(value in with_rows for value in graph.outputs)


def _has_extent(value: Value, rows: int) -> bool:
    return value.type is not None and value.type.shape[:1] == (rows,) and min(value.type.shape) >= 0


class _Use:
    """One use of an operation in which a value with rows takes part."""

    def __init__(self, node: Node, with_rows: set[Value]) -> None:
        self._node, self._with_rows = node, with_rows

    @property
    def reads_rows(self) -> bool:
        """Whether any operand has rows."""
        return any(self.has_rows(name) for name in self._node.inputs)

    def has_rows(self, name: str) -> bool:
        """Whether the tensor, or any tensor, of a parameter has rows."""
        return any(item in self._with_rows for item in self.items(name))

    def all_rows(self, name: str) -> bool:
        """Whether every tensor of a parameter has rows."""
        return all(item in self._with_rows for item in self.items(name))

    def only(self, *names: str) -> bool:
        """Whether these parameters have rows, and no other."""
        return {name for name in self._node.inputs if self.has_rows(name)} == set(names)

    def items(self, name: str) -> tuple[Value | Constant, ...]:
        """The tensors of a parameter."""
        operand: Operand = self._node.inputs.get(name, ())
        return operand if isinstance(operand, tuple) else (operand,)

    def shape(self, name: str) -> tuple[int, ...]:
        """The declared shape of a parameter's one tensor."""
        (item,) = self.items(name)
        if item.type is None:
            raise ValueError(name)
        return item.type.shape

    def python(self, name: str, default: Any = None) -> Any:
        """The value of a parameter that is known at load."""
        if name not in self._node.inputs:
            return default
        (item,) = self.items(name)
        if not isinstance(item, Constant):
            raise ValueError(name)
        return item.python()

    def axes(self, name: str, rank: int, default: Any = None) -> list[int]:
        """Axes, counted from the first."""
        axes = self.python(name, default)
        listed = axes if isinstance(axes, list) else [axes]
        if not all(-rank <= axis < rank for axis in listed):
            raise ValueError(name)
        return [axis % rank for axis in listed]


_Rule = Callable[[_Use], bool]


def _elementwise(*names: str) -> _Rule:
    """Operands with rows have all axes of the result, others broadcast over the rows."""

    def rule(use: _Use) -> bool:
        given = [name for name in names if use.items(name)]
        if not use.only(*(name for name in given if use.has_rows(name))):
            return False
        rank = max(len(use.shape(name)) for name in given)
        return all(
            len(use.shape(name)) == rank
            if use.has_rows(name)
            else len(use.shape(name)) < rank or use.shape(name)[:1] == (1,)
            for name in given
        )

    return rule


def _along(parameter: str, default: Any = None) -> _Rule:
    """The operation works along one or several axes; none of them may be that of the rows."""

    def rule(use: _Use) -> bool:
        return use.only("x") and 0 not in use.axes(parameter, len(use.shape("x")), default)

    return rule


def _joined(use: _Use) -> bool:
    items = use.items("values")
    apart = 0 not in use.axes("axis", len(items[0].type.shape if items[0].type else ()))
    return use.only("values") and apart and use.all_rows("values")


def _transposed(use: _Use) -> bool:
    return use.only("x") and use.axes("perm", len(use.shape("x")))[0] == 0


def _expanded(use: _Use) -> bool:
    rank = len(use.shape("x")) + len(use.python("axes"))
    return use.only("x") and 0 not in use.axes("axes", rank)


def _gathered(use: _Use) -> bool:
    """Each row picks from the same table."""
    is_plain = use.axes("axis", len(use.shape("x")), 0) == [0] and use.python("batch_dims", 0) == 0
    return use.only("indices") and is_plain


def _sliced(use: _Use) -> bool:
    """All of axis 0 is taken, however many rows there are."""
    starts = use.python("begin")[0] == 0 or bool((use.python("begin_mask") or [False])[0])
    ends = bool((use.python("end_mask") or [False])[0])
    whole = (use.python("stride") or [1])[0] == 1 and not (use.python("squeeze_mask") or [False])[0]
    return use.only("x") and starts and ends and whole


def _multiplied(use: _Use) -> bool:
    """In every operand and in the result the first letter is that of the rows, and stands nowhere else."""
    left, _, out = use.python("equation").replace(" ", "").partition("->")
    terms = [*left.split(","), out]
    is_first = all(term[0] == out[0] and out[0] not in term[1:] for term in terms)
    return use.only("values") and is_first and use.all_rows("values")


def _weighted(use: _Use) -> bool:
    """Rows times a weight, over axes other than the first."""
    return use.only("x") and len(use.shape("x")) >= 2


_UNARY = (
    *("abs", "cast", "clip", "erf", "exp", "gelu", "log"),
    *("relu", "rsqrt", "sigmoid", "silu", "sqrt", "square", "tanh"),
)
_BINARY = (
    *("add", "equal", "greater", "greater_equal", "less", "less_equal", "maximum"),
    *("minimum", "mul", "not_equal", "pow", "real_div", "sub"),
)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_UNARY, _elementwise("x")),
    **dict.fromkeys(_BINARY, _elementwise("x", "y")),
    "select": _elementwise("cond", "a", "b"),
    **dict.fromkeys(
        ("reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "layer_norm", "squeeze"), _along("axes")
    ),
    "softmax": _along("axis", -1),
    "cumsum": _along("axis", 0),
    "split": _along("axis"),
    "concat": _joined,
    "transpose": _transposed,
    "expand_dims": _expanded,
    "gather": _gathered,
    "slice_by_index": _sliced,
    "einsum": _multiplied,
    "conv": _weighted,
    "linear": _weighted,
}
