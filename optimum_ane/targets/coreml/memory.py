"""What is told by places in memory, of which programs know nothing: put in order, or else refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_KEEP_ALL = (
    "contiguous", "detach", "flatten", "movedim", "permute", "reshape", "squeeze", "swapaxes", "t", "transpose",
    "unflatten", "unsqueeze", "view",
)  # fmt: skip
"""Views of all elements."""
_KEEP_SOME = (
    "as_strided", "chunk", "diagonal", "expand", "expand_as", "narrow", "numpy_T", "select", "slice", "split",
    "split_with_sizes", "tensor_split", "unbind", "unfold", "unsafe_chunk", "unsafe_split",
)  # fmt: skip
"""Views of some, or of one several times."""


def order_traced_memory(traced: torch.jit.ScriptModule) -> None:
    """Gives each `as_strided` in a trace a tensor whose elements are in the order in which they lie in memory.

        reshape (heads, S, C), strides (C, heads · C, 1) ─► as_strided
        reshape (heads, S, C) ─► permute (S, heads, C), strides (heads · C, C, 1) ─► as_strided

    The strides are those that the tracer saw. Both read the same memory.

    Raises:
        UnsupportedModelError: It reads the memory of a part of a tensor.
    """
    graph = traced.forward.graph  # type: ignore[attr-defined]
    for node in list(graph.nodes()):
        if node.kind() == "aten::as_strided":
            x = next(node.inputs())
            order = _memory_order(x)
            if order is None or not _is_whole(x):
                raise _refusal(node.scopeName())
            if order != sorted(order):
                node.replaceInput(0, _permuted(graph, node, x, order))


def check_exported_memory(program: ExportedProgram) -> None:
    """Checks that `as_strided` in an export is given tensors whose elements lie one after the other.

    Raises:
        UnsupportedModelError: One is a part or a rearrangement of another tensor.
    """
    for node in program.graph.nodes:
        if str(node.target) == "aten.as_strided.default":
            x = node.args[0].meta["val"]
            length = x.numel() * x.element_size()
            if not x.is_contiguous() or x.storage_offset() or x.untyped_storage().nbytes() != length:
                raise _refusal(node.name)


def _is_whole(value: Any) -> bool:
    """Whether a traced value holds all elements of one that was computed, and no others lie between them."""
    node = value.node()
    while (kind := node.kind().removeprefix("aten::")) in _KEEP_ALL:
        given = next(node.inputs())
        if _lies_in_order(node.output()) and not _lies_in_order(given):
            return True  # a copy
        node = given.node()
    return kind not in _KEEP_SOME and node.kind() not in ("prim::ListUnpack", "prim::TupleUnpack", "prim::GetAttr")


def _lies_in_order(value: Any) -> bool:
    order = _memory_order(value)
    return order is not None and order == sorted(order)


def _memory_order(value: Any) -> list[int] | None:
    """The axes of a traced value in the order of memory; None where the strides leave gaps, or are not known.

    Axes of length 1, whose strides say nothing, stay before the axis that follows them.
    """
    sizes, strides = value.type().sizes(), value.type().strides()
    if sizes is None or strides is None:
        return None
    told = list(strides)
    for axis in reversed(range(len(sizes))):
        if sizes[axis] == 1:
            told[axis] = told[axis + 1] * sizes[axis + 1] if axis + 1 < len(sizes) else 1
    order = sorted(range(len(sizes)), key=lambda axis: (-told[axis], axis))
    expected = 1
    for axis in reversed(order):
        if sizes[axis] != 1 and told[axis] != expected:
            return None
        expected *= sizes[axis]
    return order


def _permuted(graph: Any, node: Any, x: Any, order: list[int]) -> Any:
    graph.setInsertPoint(node)
    axes = graph.create("prim::ListConstruct", [graph.insertConstant(axis) for axis in order], 1)
    axes.output().setType(torch._C.ListType.ofInts())
    permuted = graph.create("aten::permute", [x, axes.output()], 1)
    for each in (axes, permuted):
        each.copyMetadata(node)
        each.insertBefore(node)
    return permuted.output()


def _refusal(place: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"as_strided in {place or 'the module'} reads the memory of a tensor that is a part or a rearrangement of "
        "another: a program cannot know what lies there"
    )
