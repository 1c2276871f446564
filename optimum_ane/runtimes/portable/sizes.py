"""How much an operation is about to make and to do, from the shapes of its operands and before it runs.

One function for each operation whose result, or a step on the way to it, may be larger than its operands. Each takes
the `Operands` of one use and returns the elements of the largest tensor that it makes, and how many multiplications
that takes. It also refuses what torch's own kernels do not check, and would read outside a tensor for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from optimum_ane.runtimes.portable.limits import check_extents

Shape = tuple[int, ...]


class Operands(Protocol):
    """The operands of one use of an operation, by MIL's names of the parameters."""

    def shapes(self, name: str) -> list[Shape]:
        """Returns the shapes of the tensors bound to a parameter; none where it is left out."""
        ...

    def python(self, name: str, default: Any = None) -> Any:
        """Returns the value of a parameter that sets sizes."""
        ...

    def all(self) -> list[Shape]:
        """Returns the shapes of all tensors."""
        ...


Cost = tuple[int, int]
SIZES: dict[str, Callable[[Operands], Cost]] = {}
_BROADCASTING = (
    *("add", "sub", "mul", "real_div", "floor_div", "mod", "pow", "maximum", "minimum", "select"),
    *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"),
    *("logical_and", "logical_or", "logical_xor"),
)


def cost(op: str, operands: Operands) -> Cost:
    """Returns the elements of the largest tensor that an operation makes, and its multiplications.

    Raises:
        LimitError: That tensor has too many elements or axes, or is impossible.
        ValueError: The parameters are none that the operation can have.
    """
    for shape in operands.all():
        check_extents(shape)
    function = SIZES.get(op)
    if function is None:
        elements = sum(math.prod(shape) for shape in operands.all())
        return elements, elements
    elements, work = function(operands)
    check_extents((elements,), "a result")
    return elements, work


def sized(*names: str) -> Callable[[Callable[[Operands], Cost]], Callable[[Operands], Cost]]:
    """Registers a function for these operations."""

    def decorate(function: Callable[[Operands], Cost]) -> Callable[[Operands], Cost]:
        SIZES.update(dict.fromkeys(names, function))
        return function

    return decorate


def one(operands: Operands, name: str) -> Shape:
    """Returns the shape of a tensor that must be there."""
    shapes = operands.shapes(name)
    if len(shapes) != 1:
        raise ValueError(f"{name} is bound to {len(shapes)} tensors")
    return shapes[0]


def integers(operands: Operands, name: str, default: Sequence[int] | None = None) -> list[int]:
    """Returns a parameter that is a list of integers."""
    given = operands.python(name)
    given = default if given is None else given
    if not isinstance(given, list | tuple | range) or not all(isinstance(n, int) for n in given):
        raise ValueError(f"{name} is no list of integers")
    return list(given)


def integer(operands: Operands, name: str, default: int) -> int:
    """Returns a parameter that is an integer."""
    given = operands.python(name, default)
    if not isinstance(given, int):
        raise ValueError(f"{name} is no integer")
    return given


def number(operands: Operands, name: str, default: float) -> float:
    """Returns a parameter that is a finite number."""
    given = operands.python(name, default)
    if not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{name} is no finite number")
    return given


def positive(numbers: Sequence[int], what: str) -> None:
    """Refuses numbers below 1."""
    if any(number < 1 for number in numbers):
        raise ValueError(f"{what} {list(numbers)} should be positive")


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Returns the extents of a broadcast; of shapes that do not fit together, which torch refuses, the largest."""
    rank = max((len(shape) for shape in shapes), default=0)
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(0 if 0 in extents else max(extents) for extents in zip(*aligned, strict=True))


@sized(*_BROADCASTING)
def _elementwise(operands: Operands) -> Cost:
    elements = check_extents(broadcast(operands.all()), "a result")
    return elements, elements


@sized("prelu", "instance_norm", "softplus_parametric", "quantize", "dequantize")
def _by_channel(operands: Operands) -> Cost:
    """A parameter of one number for each channel is broadcast; one of another length would widen the result."""
    x, elements = operands.all()[0], math.prod(operands.all()[0])
    widest = max((math.prod(shape) for shape in operands.all()[1:]), default=1)
    elements *= 1 if widest in (1, *x) else widest
    return elements, elements


@sized("fill")
def _fill(operands: Operands) -> Cost:
    elements = check_extents(integers(operands, "shape"), "a result")
    return elements, elements


@sized("tile")
def _tile(operands: Operands) -> Cost:
    x, reps = one(operands, "x"), integers(operands, "reps")
    x = (1,) * (len(reps) - len(x)) + x
    elements = check_extents([a * b for a, b in zip(x, reps, strict=True)], "a result")
    return elements, elements


@sized("one_hot")
def _one_hot(operands: Operands) -> Cost:
    shape = (*one(operands, "indices"), integer(operands, "one_hot_vector_size", 0))
    elements = check_extents(shape, "a result")
    return elements, elements


@sized("range_1d")
def _range(operands: Operands) -> Cost:
    start, end, step = (number(operands, name, 0) for name in ("start", "end", "step"))
    if step == 0:
        raise ValueError("a range of step 0")
    span = (end - start) / step
    elements = math.ceil(span) if math.isfinite(span) else 2**63
    return max(0, elements), max(0, elements)


@sized("pad")
def _pad(operands: Operands) -> Cost:
    x, amounts = one(operands, "x"), integers(operands, "pad")
    if len(amounts) % 2 or len(amounts) > 2 * len(x):
        raise ValueError(f"{len(amounts)} amounts of padding for {len(x)} axes")
    kept = len(x) - len(amounts) // 2
    padded = [n + a + b for n, a, b in zip(x[kept:], amounts[::2], amounts[1::2], strict=True)]
    # Each amount alone as well: torch adds them in its own integers.
    for amount in amounts:
        check_extents((abs(amount),), "a padding")
    elements = check_extents((*x[:kept], *padded), "a result")
    return elements, elements


@sized("expand_dims")
def _expand_dims(operands: Operands) -> Cost:
    x = one(operands, "x")
    check_extents((1,) * (len(x) + len(integers(operands, "axes"))), "a result")
    return math.prod(x), 0


@sized("reshape", "reshape_like")
def _reshape(operands: Operands) -> Cost:
    shape = operands.python("shape")
    if isinstance(shape, list):
        check_extents((1,) * len(shape), "a result")
    elements = math.prod(one(operands, "x"))
    return elements, 0


@sized("stack")
def _stack(operands: Operands) -> Cost:
    shapes = operands.shapes("values")
    check_extents((1,) * (1 + max((len(shape) for shape in shapes), default=0)), "a result")
    elements = sum(math.prod(shape) for shape in shapes)
    return elements, elements


@sized("gather")
def _gather(operands: Operands) -> Cost:
    x, indices = one(operands, "x"), one(operands, "indices")
    axis, batch = integer(operands, "axis", 0), integer(operands, "batch_dims", 0)
    if not -len(x) <= axis < len(x) or not 0 <= batch <= min(len(x), len(indices)):
        raise ValueError(f"axis {axis} and batch_dims {batch} of shape {x}")
    axis %= len(x)
    elements = check_extents((*x[:axis], *indices[batch:], *x[axis + 1 :]), "a result")
    return elements, elements


@sized("gather_nd")
def _gather_nd(operands: Operands) -> Cost:
    x, indices = one(operands, "x"), one(operands, "indices")
    batch = integer(operands, "batch_dims", 0)
    if not indices or not 0 <= batch <= len(x) or batch + indices[-1] > len(x):
        raise ValueError(f"indices of shape {indices} into shape {x}")
    elements = check_extents((*indices[:-1], *x[batch + indices[-1] :]), "a result")
    return elements, elements


@sized("non_zero")
def _non_zero(operands: Operands) -> Cost:
    x = one(operands, "x")
    elements = math.prod(x) * max(1, len(x))
    return elements, elements


@sized("sliding_windows")
def _sliding_windows(operands: Operands) -> Cost:
    x, axis = one(operands, "x"), integer(operands, "axis", 0)
    size, stride = integer(operands, "size", 1), integer(operands, "stride", 1)
    positive((size, stride), "size and stride")
    if not -len(x) <= axis < len(x):
        raise ValueError(f"axis {axis} of shape {x}")
    windows = max(0, (x[axis] - size) // stride + 1)
    elements = math.prod(x) // max(1, x[axis]) * windows * size
    return elements, elements


@sized("matmul")
def _matmul(operands: Operands) -> Cost:
    x, y = one(operands, "x"), one(operands, "y")
    x, y = x if len(x) > 1 else (1, *x), y if len(y) > 1 else (*y, 1)
    if min(len(x), len(y)) < 2:
        raise ValueError("a product of scalars")
    rows, inner = (x[-1], x[-2]) if operands.python("transpose_x", False) else (x[-2], x[-1])
    columns = y[-2] if operands.python("transpose_y", False) else y[-1]
    batch = broadcast((x[:-2], y[:-2]))
    elements = check_extents((*batch, rows, columns), "a result")
    # An operand is repeated along the batch axes that it lacks.
    copies = math.prod(batch) * max(rows * inner, inner * columns)
    return max(elements, copies), elements * inner


@sized("linear")
def _linear(operands: Operands) -> Cost:
    x, weight = one(operands, "x"), one(operands, "weight")
    if not x or len(weight) != 2:
        raise ValueError(f"a linear layer of weight {weight} on shape {x}")
    elements = check_extents((*x[:-1], weight[0]), "a result")
    # Integers beside floats take a copy of x.
    return max(elements, math.prod(x)), elements * weight[1]


@sized("einsum")
def _einsum(operands: Operands) -> Cost:
    shapes = operands.shapes("values")
    left, _, out = str(operands.python("equation", "")).replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes) or any(len(t) != len(s) for t, s in zip(terms, shapes, strict=True)):
        raise ValueError(f"equation {operands.python('equation')!r} for shapes {shapes}")
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, extent in zip(term, shape, strict=True):
            extents[letter] = max(extent, extents.get(letter, 0))
    work = math.prod(extents.values())
    # Letters that both operands have and the result lacks are summed; all others may widen a step.
    summed = {letter for letter in set.intersection(*map(set, terms)) if letter not in out}
    elements = check_extents([n for letter, n in extents.items() if letter not in summed], "a result")
    return elements, work


@sized("scaled_dot_product_attention")
def _attention(operands: Operands) -> Cost:
    q, k, v = (one(operands, name) for name in ("query", "key", "value"))
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        # torch's fused kernel does not compare them, and reads past the end of the shorter one.
        raise ValueError(f"query {q}, key {k} and value {v} do not fit together")
    batch = broadcast((q[:-2], k[:-2], v[:-2]))
    shapes = [(*batch, q[-2], k[-2]), *operands.shapes("attn_mask")]
    elements = check_extents(broadcast(shapes), "the scores")
    return max(elements, math.prod((*batch, q[-2], v[-1]))), elements * (q[-1] + v[-1])


@sized("classify")
def _classify(operands: Operands) -> Cost:
    elements, classes = math.prod(one(operands, "probabilities")), operands.python("classes")
    if not isinstance(classes, list) or len(classes) != elements:
        raise ValueError(f"{elements} probabilities, and not as many classes")
    return elements, elements


@sized("scatter_nd", "gather_along_axis", "scatter_along_axis", "scatter")
def _indexed(operands: Operands) -> Cost:
    elements = max(math.prod(shape) for shape in operands.all())
    return elements, elements
