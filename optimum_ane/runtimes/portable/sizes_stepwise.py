"""How much the operations that run step by step are about to make and to do: recurrent cells, lists, boxes."""

from __future__ import annotations

import math

from optimum_ane.runtimes.portable import limits
from optimum_ane.runtimes.portable.limits import LimitError, check_extents
from optimum_ane.runtimes.portable.sizes import Cost, Operands, Shape, integer, integers, one, sized
from optimum_ane.runtimes.portable.tensor_list import check_length

_TURN_WORK = 2**21
"""What it takes to run a step of a dozen small operations (some 50 µs), in multiplications."""


def _check_turns(count: int, what: str) -> None:
    if count > limits.MAX_TURNS:
        raise LimitError(f"{what} of {count} steps; at most {limits.MAX_TURNS} are taken")


@sized("rnn", "gru", "lstm")
def _recurrent(operands: Operands) -> Cost:
    x, weight = one(operands, "x"), one(operands, "weight_hh")
    if len(x) != 3 or len(weight) != 2:
        raise ValueError(f"a recurrent cell of weight {weight} on shape {x}")
    directions = 2 if operands.shapes("weight_hh_back") else 1
    _check_turns(x[0] * directions, "a sequence")
    rows = weight[0] * directions
    elements = check_extents((*x[:2], rows), "the gates") + check_extents((*x[:2], weight[1] * directions))
    return elements, elements * (x[2] + weight[1]) + x[0] * directions * _TURN_WORK


@sized("non_maximum_suppression")
def _suppression(operands: Operands) -> Cost:
    boxes, scores = one(operands, "boxes"), one(operands, "scores")
    if len(boxes) != 3 or len(scores) != 3:
        raise ValueError(f"boxes of shape {boxes} and scores of shape {scores}")
    most = integer(operands, "max_boxes", 0)
    per_box = 4 + math.prod(scores) // max(1, scores[0]) + 2
    results = check_extents((scores[0], most, per_box), "a result")
    turns = scores[0] * min(most, math.prod(boxes) // (4 * max(1, boxes[0])))
    _check_turns(turns, "a selection of boxes")
    return results + 4 * math.prod(boxes) + math.prod(scores), turns * (_TURN_WORK + 4 * math.prod(boxes))


@sized("make_list")
def _make_list(operands: Operands) -> Cost:
    length = integer(operands, "init_length", 1)
    check_length(length)
    extents = operands.python("elem_shape", [])
    numbers = [n for n in (extents if isinstance(extents, list) else [extents]) if not isinstance(n, str)]
    if not all(isinstance(extent, int) for extent in numbers):
        raise ValueError("elem_shape is no list of integers")
    return check_extents((length, *numbers), "a list"), length


def _list(operands: Operands) -> Shape:
    """Returns the length of a list and the shape of its elements."""
    shape = one(operands, "ls")
    if not shape:
        raise ValueError("a number stands where a list is needed")
    return shape


@sized("list_length")
def _list_length(operands: Operands) -> Cost:
    return 1, 1


@sized("list_read")
def _list_read(operands: Operands) -> Cost:
    elements = math.prod(_list(operands)[1:])
    return elements, elements


@sized("list_write")
def _list_write(operands: Operands) -> Cost:
    value = one(operands, "value")
    return _grown(_list(operands)[0], [integer(operands, "index", 0)], value)


@sized("list_scatter")
def _list_scatter(operands: Operands) -> Cost:
    value = one(operands, "value")
    return _grown(_list(operands)[0], integers(operands, "indices"), value[1:])


def _grown(length: int, indices: list[int], element: Shape) -> Cost:
    """The list is copied, though not its elements."""
    length = max([length, *(index + 1 for index in indices)])
    check_length(length)
    return check_extents((length, *element), "a list"), length + len(indices) * math.prod(element)


@sized("list_gather")
def _list_gather(operands: Operands) -> Cost:
    elements = check_extents((len(integers(operands, "indices")), *_list(operands)[1:]), "a result")
    return elements, elements
