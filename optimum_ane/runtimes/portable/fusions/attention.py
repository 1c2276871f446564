"""A masked attention as one call, over the rows that its mask lets through.

    matmul ─► add mask ─► softmax ─► matmul

A decoder's function has a fixed shape: it attends to all rows of its state, and the mask hides those that are not
written yet. What is hidden weighs exactly nothing: the exponential of a number that is 104 below the largest is 0 in
float32. So the rows outside the span that the mask lets through need not be multiplied with, as long as the scores are
too small to outweigh the mask. That is checked with the numbers of each call: a score is at most the product of the
lengths of its query and its key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.fusions.pattern import Fusion, Pattern, common_type, number, rounded
from optimum_ane.runtimes.portable.graph import Node, Value

_FEWEST_QUERIES = 16
"""With fewer, the check takes as long as what it spares."""
_ALIGNED = 16
"""Spans begin and end at multiples of it, so that the vectors of a sum hold the same terms as without a span."""
_UNSEEN = 1000.0
"""A column whose mask is lower than that of the most visible by more than this may be hidden; the check decides."""
_LARGEST_OPEN = 1024.0
"""What a mask may add to a row that is seen, at most, for the check of the rounding below to hold."""
_MARGIN = 200.0
"""More than the 104 of the exponential: what the rounding of visible scores to fp16 can add to it."""

Span = tuple[int, int, float] | None
"""The first column of a mask that is seen and the one behind the last, and how far all others are below, in each row;
None where most are seen."""


def find_attentions(pattern: Pattern, *, rounds: bool) -> Iterator[Fusion]:
    """Yields the attentions of a graph whose scores and weights are read once."""
    for node in pattern.nodes:
        if node.op == "matmul":
            found = _attention(node, pattern, rounds)
            if found is not None:
                yield found


def _attention(last: Node, pattern: Pattern, rounds: bool) -> Fusion | None:
    """The attention that ends with a product, if it is one."""
    softmax = pattern.only_for(last.inputs.get("x"), "softmax")
    add = None if softmax is None else pattern.only_for(softmax.inputs.get("x"), "add")
    if softmax is None or add is None or number(last, "transpose_x") or number(last, "transpose_y"):
        return None
    for scores, other in (("x", "y"), ("y", "x")):
        first = pattern.only_for(add.inputs.get(scores), "matmul")
        if first is None or number(first, "transpose_x"):
            continue
        operands = (first.inputs.get("x"), first.inputs.get("y"), last.inputs.get("y"), add.inputs.get(other))
        values = tuple(value for value in operands if isinstance(value, Value))
        nodes = (first, add, softmax, last)
        type_ = common_type(*values, *(node.outputs[0] for node in nodes))
        if len(values) < 4 or type_ is None or not _fit(values, add.outputs[0], softmax):
            continue
        call = _attend(rounds=rounds and type_ == "float16", is_transposed=bool(number(first, "transpose_y")))
        queries = values[0].type.shape[-2] if values[0].type is not None else 0
        return Fusion(nodes, values, call, visible if queries >= _FEWEST_QUERIES else None)
    return None


def _fit(values: tuple[Value, ...], scores: Value, softmax: Node) -> bool:
    """Whether queries, keys and values are matrices in equal numbers, and the mask adds no axis to the scores."""
    shapes = [value.type.shape for value in (*values, scores) if value.type is not None]
    if len(shapes) < 5 or min(min(shape, default=-1) for shape in shapes) < 1:
        return False
    query, key, value, mask, score = shapes
    rank = len(query)
    return (
        rank >= 3
        and len(key) == len(value) == len(score) == rank
        and query[:-2] == key[:-2] == value[:-2] == score[:-2]
        and len(mask) <= rank
        and score[-2] == query[-2]
        and score[-1] == value[-2]
        and number(softmax, "axis") in (-1, rank - 1)
    )


def _attend(*, rounds: bool, is_transposed: bool) -> Callable[..., Tensor]:
    """Returns the function of queries (…, Q, C), keys (…, C, K) or transposed, values (…, K, V), mask and span."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, span: Span = None) -> Tensor:
        columns = key.mT if is_transposed else key
        if span is not None and mask.shape[-1] == columns.shape[-1] and _weighs_nothing(query, columns, value, span):
            start, stop, _ = span
            columns, value, mask = columns[..., start:stop], value[..., start:stop, :], mask[..., start:stop]
        scores = rounded(torch.matmul(query, columns), rounds)
        weights = torch.softmax(rounded(scores.add_(mask), rounds), -1)
        return torch.matmul(rounded(weights, rounds), value)

    return attend


def _weighs_nothing(query: Tensor, columns: Tensor, value: Tensor, span: tuple[int, int, float]) -> bool:
    """Whether the softmax is 0 in float32 outside a span, whatever is there, and 0 times a value is 0.

    Let b bound the scores. Inside each row there is a number of at least m − b, m what the mask adds; outside none
    above m − gap + b. Rounding to fp16 moves each by a 2048th of its size: with the margin, less than a tenth of the
    gap.
    """
    longest = torch.linalg.vector_norm(query, dim=-1).amax() * torch.linalg.vector_norm(columns, dim=-2).amax()
    bound, size = torch.stack((longest, torch.linalg.vector_norm(value))).tolist()
    return 2 * bound + _MARGIN < 0.9 * span[2] and math.isfinite(size)


def visible(mask: Tensor) -> Span:
    """Returns the span of columns that a mask (…, K) leaves visible; None where it is most of them, or unclear."""
    width = mask.shape[-1]
    rows = mask.reshape(-1, width)
    best = rows.amax(0)
    seen = (best > best.amax() - _UNSEEN).nonzero()
    if not len(seen):
        return None
    start = int(seen[0]) // _ALIGNED * _ALIGNED
    stop = min(-(-(int(seen[-1]) + 1) // _ALIGNED) * _ALIGNED, width)
    if 2 * (stop - start) > width:
        return None
    inside = rows[:, start:stop].amax(1)
    outside = [part.amax(1) for part in (rows[:, :start], rows[:, stop:]) if part.numel()]
    gap = (inside - torch.stack(outside).amax(0)).amin()
    is_open = bool((inside.abs() <= _LARGEST_OPEN).all())
    return (start, stop, float(gap)) if is_open else None
