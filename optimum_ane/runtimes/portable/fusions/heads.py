"""The heads of an attention computed together, where nothing looks at what lies between.

A program for the Neural Engine computes attention head by head: of a DistilBERT-base, 444 operations of a few
microseconds. Here each head's products are the same calls on the same operands, written side by side into one tensor,
and what is done to each number by itself is done to all heads at once. So every bit of the result is the same:

    head 1: einsum ─► add mask ─► softmax ─► einsum ─┐
    head 2: einsum ─► add mask ─► softmax ─► einsum ─┼─► concat
    …                                                ┘

Where nothing is masked, as of images, there is no addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.fusions.pattern import Fusion, Pattern, common_type, number, rounded
from optimum_ane.runtimes.portable.graph import Node, Operand, Value
from optimum_ane.runtimes.portable.ops.linear import is_product_over_channels
from optimum_ane.runtimes.portable.values import Constant

SCORES_AT_ONCE = 2**18
"""Elements of the scores that are computed together: 1 MiB, which stays in a core's cache."""


def _together_of(count: int, rounds: bool) -> Callable[..., Tensor]:
    """Returns the function of an attention's heads together.

    It takes keys (1, K, 1, heads · C), queries (1, heads · C, 1, Q), values (1, heads · V, 1, K), each before it is
    cut into heads, and what is added to the scores, if anything is, (1, K or 1, 1, Q or 1); it gives what the
    concatenation gives, (1, heads · V, 1, Q), not yet rounded.

    Args:
        count: How many heads there are.
        rounds: Whether what lies between is rounded to fp16.
    """

    def attend(keys: Tensor, queries: Tensor, values: Tensor, *added: Tensor) -> Tensor:
        if any(each.shape[0] != 1 or each.shape[2] != 1 for each in (keys, queries, values, *added)):
            raise ValueError("the program states one row, and there are several")
        key = keys[0, :, 0].unflatten(1, (count, -1)).permute(1, 2, 0).unbind()  # (C, K) each
        query = queries[0, :, 0].unflatten(0, (count, -1)).mT.unbind()  # (Q, C) each
        value = values[0, :, 0].unflatten(0, (count, -1)).mT.unbind()  # (K, V) each
        length, targets, width = keys.shape[1], queries.shape[3], values.shape[1]
        masks = [each.permute(0, 2, 3, 1)[0] for each in added]  # (1, Q or 1, K or 1)
        result = torch.empty(targets, width)
        columns = result.unflatten(1, (count, -1)).unbind(1)
        step = max(1, SCORES_AT_ONCE // (length * targets))
        for start in range(0, count, step):
            part = slice(start, start + step)
            scores = torch.empty(len(key[part]), targets, length)
            for out, a, b in zip(scores.unbind(), query[part], key[part], strict=True):
                torch.mm(a, b, out=out)
            scores = rounded(scores, rounds)
            for mask in masks:
                scores = rounded(scores.add_(mask), rounds)
            weights = rounded(torch.softmax(scores, -1), rounds)
            for out, a, b in zip(columns[part], weights.unbind(), value[part], strict=True):
                torch.mm(a, b, out=out)
        return result[None, None].permute(0, 3, 1, 2)

    return attend


def find_heads(pattern: Pattern, *, rounds: bool) -> Iterator[Fusion]:
    """Yields the attentions of a graph whose heads can be computed together.

    They are those of one row and of shapes that are known, whose values between are read once.
    """
    for node in pattern.nodes:
        joined = node.inputs.get("values")
        if node.op == "concat" and isinstance(joined, tuple) and len(joined) > 1 and number(node, "axis") in (1, -3):
            heads = [head for value in joined if (head := _head(value, pattern)) is not None]
            found = _together(node, heads, pattern, rounds) if len(heads) == len(joined) else None
            if found is not None:
                yield found


@dataclass(frozen=True)
class _Head:
    nodes: tuple[Node, ...]
    key: Value
    query: Value
    value: Value
    added: Value | None


def _head(result: Operand, pattern: Pattern) -> _Head | None:
    """The operations of a head, from its result backwards; None where it is none."""
    last = pattern.only_for(result, "einsum")
    value, weights = _product(last)
    softmax = pattern.only_for(weights, "softmax")
    if last is None or softmax is None or number(softmax, "axis") not in (1, -3):
        return None
    for scores, between, added in _scores(softmax, pattern):
        first = pattern.only_for(scores, "einsum")
        key, query = _product(first)
        read = [each for each in (key, query, value) if isinstance(each, Value) and pattern.uses(each) == 1]
        if first is not None and len(read) == 3:
            return _Head((first, *between, softmax, last), read[0], read[1], read[2], added)
    return None


def _scores(softmax: Node, pattern: Pattern) -> Iterator[tuple[Operand | None, tuple[Node, ...], Value | None]]:
    """What may be the scores before a softmax, the operations between, and what is added to them."""
    given = softmax.inputs.get("x")
    add = pattern.only_for(given, "add")
    if add is None:
        yield given, (), None
        return
    for scores, other in (("x", "y"), ("y", "x")):
        added = add.inputs.get(other)
        if isinstance(added, Value):
            yield add.inputs.get(scores), (add,), added


def _product(node: Node | None) -> tuple[Operand | None, Operand | None]:
    """The operands of the product that MIL's einsum allows."""
    values = None if node is None else node.inputs.get("values")
    equation = None if node is None else node.inputs.get("equation")
    if not isinstance(values, tuple) or len(values) != 2 or not isinstance(equation, Constant):
        return None, None
    return values if is_product_over_channels(equation.python()) else (None, None)


def _together(concat: Node, heads: list[_Head], pattern: Pattern, rounds: bool) -> Fusion | None:
    """The heads as one, if they are all those of one attention, and all between is of one type."""
    cuts = [
        _cut([getattr(head, name) for head in heads], axis, pattern)
        for name, axis in (("key", 3), ("query", 1), ("value", 1))
    ]
    splits = [cut for cut in cuts if cut is not None]
    added = heads[0].added
    if len(splits) < 3 or len(splits) != len({*splits}) or any(head.added is not added for head in heads):
        return None
    sources = [split.inputs["x"] for split in splits]
    nodes = [*splits, *(node for head in heads for node in head.nodes), concat]
    type_ = common_type(*(value for node in nodes for value in node.outputs))
    if type_ is None or number(concat, "interleave"):
        return None
    given = (*sources, *([] if added is None else [added]))
    operands = [each for each in given if isinstance(each, Value) and _is_of_one_row(each)]
    if len(operands) < len(given):
        return None
    call = _together_of(len(heads), rounds and type_ == "float16")
    return Fusion(tuple(nodes), tuple(operands), call)


def _cut(pieces: list[Value], axis: int, pattern: Pattern) -> Node | None:
    """The operation that cuts a value along an axis into these equal pieces, in this order, and into nothing else."""
    split = pattern.maker(pieces[0])
    if split is None or split.op != "split" or number(split, "axis") not in (axis, axis - 4):
        return None
    extents = {None if piece.type is None else piece.type.shape[axis] for piece in pieces}
    return split if split.outputs == pieces and len(extents) == 1 else None


def _is_of_one_row(value: Value) -> bool:
    """Whether a value is declared as (1, ?, 1, ?) of floating-point numbers."""
    if common_type(value) is None or value.type is None or len(value.type.shape) != 4:
        return False
    return value.type.shape[0] == value.type.shape[2] == 1 and min(value.type.shape) > 0
