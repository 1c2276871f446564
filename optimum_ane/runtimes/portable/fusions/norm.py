"""A norm by the root of the mean square, which MIL lacks, as one call.

A program for the Neural Engine states it as a norm of the numbers and their negatives, whose mean is 0 and whose
variance is the mean square, and takes the first half of the result:

    x ─► · −1 ─► concat(x, −x) ─► layer_norm ─► the first half
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.fusions.pattern import Fusion, Pattern, common_type, number, numbers
from optimum_ane.runtimes.portable.graph import Node, Value
from optimum_ane.runtimes.portable.ops.shaping import chosen_ranges
from optimum_ane.runtimes.portable.values import Constant


def find_norms(pattern: Pattern) -> Iterator[Fusion]:
    """Yields the norms of a graph that are stated over a value and its negative."""
    for node in pattern.nodes:
        if node.op in ("split", "slice_by_size", "slice_by_index"):
            found = _norm(node, pattern)
            if found is not None:
                yield found


def _norm(half: Node, pattern: Pattern) -> Fusion | None:
    """The norm of which an operation takes the first half, if it is one."""
    norm = pattern.only_for(half.inputs.get("x"), "layer_norm")
    joined = None if norm is None else pattern.only_for(norm.inputs.get("x"), "concat")
    values = None if joined is None else joined.inputs.get("values")
    if norm is None or joined is None or not isinstance(values, tuple) or len(values) != 2:
        return None
    x, negative = values
    minus = pattern.maker(negative)
    if not isinstance(x, Value) or x.type is None or minus is None or not _is_negative(minus, x):
        return None
    shape = x.type.shape
    axis = _axis(joined, norm, len(shape)) if shape else None
    type_ = common_type(x, minus.outputs[0], joined.outputs[0], norm.outputs[0], half.outputs[0])
    if axis is None or type_ is None or min(shape, default=0) < 1 or not _is_first_half(half, shape, axis, pattern):
        return None
    weights = [norm.inputs.get(name) for name in ("gamma", "beta")]
    if any(weight is not None and not isinstance(weight, Constant) for weight in weights):
        return None
    width = shape[axis]
    gamma, beta = (w.tensor().reshape(-1)[:width] if isinstance(w, Constant) else None for w in weights)
    epsilon = number(norm, "epsilon")
    nodes = (joined, norm, half) if pattern.uses(minus.outputs[0]) > 1 else (minus, joined, norm, half)
    call = _normalise(axis, gamma, beta, 1e-5 if epsilon is None else epsilon)
    return Fusion(nodes, (x,), call, takes="any")


def _is_negative(node: Node, x: Value) -> bool:
    """Whether an operation multiplies a value by −1."""
    return node.op == "mul" and any(
        node.inputs.get(a) is x and number(node, b) == -1 for a, b in (("x", "y"), ("y", "x"))
    )


def _axis(joined: Node, norm: Node, rank: int) -> int | None:
    """The axis along which numbers are joined and normalised; None where these are not the same one axis."""
    axis, axes = number(joined, "axis"), numbers(norm, "axes")
    if axis is None or axes is None or len(axes) != 1 or number(joined, "interleave"):
        return None
    return int(axis) % rank if int(axis) % rank == axes[0] % rank else None


def _is_first_half(node: Node, shape: tuple[int, ...], axis: int, pattern: Pattern) -> bool:
    """Whether an operation takes the first half along an axis, of two that together have twice its extent."""
    whole = tuple(2 * extent if at == axis else extent for at, extent in enumerate(shape))
    if any(not isinstance(each, Constant) for name, each in node.inputs.items() if name != "x"):
        return False
    if node.op == "split":
        kept, *others = node.outputs
        is_even = kept.type is not None and kept.type.shape == shape and len(others) == 1
        return is_even and number(node, "axis") in (axis, axis - len(shape)) and not pattern.uses(others[0])
    given: dict[str, Any] = {name: each.python() for name, each in node.inputs.items() if isinstance(each, Constant)}
    if node.op == "slice_by_size":
        return not any(given["begin"]) and given["size"] == [*shape]
    masks = [given.get(name) for name in ("stride", "begin_mask", "end_mask", "squeeze_mask")]
    ranges = chosen_ranges(whole, given["begin"], given["end"], *masks)
    return ranges == [range(extent) for extent in shape] and not any(given.get("squeeze_mask") or ())


def _normalise(axis: int, gamma: Tensor | None, beta: Tensor | None, epsilon: float) -> Callable[[Tensor], Tensor]:
    """Returns the function of the numbers, of float32 or of fp16; it computes in float32."""
    least = torch.tensor([epsilon])

    def normalise(x: Tensor) -> Tensor:
        moved = x.movedim(axis, -1)
        wide = moved.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(least, length, length, value=1 / moved.shape[-1]).rsqrt_()
        normed = torch.mul(wide, scale) if wide is moved else wide.mul_(scale)
        if gamma is not None:
            normed.mul_(gamma)
        return (normed if beta is None else normed.add_(beta)).movedim(-1, axis)

    return normalise
