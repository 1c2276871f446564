"""Makes a trace of a stock module functional: what is written into a view is in the tensor that it is a view of.

    y = x.clone()       y.1 = clone(x)                     y.1 = clone(x)
    y[..., :2] = v      part = slice(y.1, -1, 0, 2)        part = slice(y.1, -1, 0, 2)
                        copy_(part, v)                     y.2 = slice_scatter(y.1, expand_as(v, part), -1, 0, 2)
    return y            return y.1               becomes   return y.2

A trace keeps the writing as an operation of its own, after which the tensor is used under its old name. coremltools
takes such operations for functional ones and loses them, or, for slices, takes them for slices of the first axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from optimum_ane.errors import UnsupportedModelError

_WRITING = ("aten::copy_", "aten::fill_", "aten::zero_")
_RESHAPING = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "view_as")
_SAME = ("alias", "contiguous", "detach", "dropout", "feature_dropout", "to", "type_as")
"""These hand on the tensor itself, unless they have to change it."""
_OTHER_VIEWS = (
    "as_strided", "chunk", "diagonal", "expand", "expand_as", "imag", "movedim", "narrow", "permute", "real", "select",
    "slice", "split", "split_with_sizes", "swapaxes", "t", "tensor_split", "transpose", "unbind", "unfold",
    "unsafe_chunk", "unsafe_split", "view_as_complex", "view_as_real",
)  # fmt: skip
_VIEWS = {f"aten::{name}" for name in (*_RESHAPING, *_SAME, *_OTHER_VIEWS)} | {"prim::ListUnpack"}


def make_functional(traced: torch.jit.ScriptModule) -> None:
    """Rewrites a trace whose calls are inlined, in place. What is written into buffers is left as it is.

    Raises:
        UnsupportedModelError: Something is written into a view that has no inverse here; the message names the module.
    """
    graph = traced.forward.graph  # type: ignore[attr-defined]
    for node in list(graph.nodes()):
        kind = node.kind()
        if kind.startswith("aten::") and kind.endswith("_") and not kind.endswith("__"):
            _make_functional(graph, node)
    # It may be at an operation that is no more, and later passes of torch put it back to where they found it.
    graph.setInsertPoint(graph.return_node())


def _make_functional(graph: Any, node: Any) -> None:
    target = next(node.inputs())
    root, chain = _origin(target)
    if root.node().kind() == "prim::GetAttr":
        return
    family = [value for value in _family(root, node) if _is_used_after(value, node)]
    if node.kind() in _WRITING:
        node = _overwrite(graph, node, target)
    if not chain and not family:
        return
    new, last = node.output(), node
    for view in chain:
        last = _written_back(graph, view, new, last)
        new = last.output()
    _replace(root, last, new)
    renewed = {root.debugName(): new}
    written = node.output()
    for value in family:
        if value.debugName() != root.debugName():
            again, last = _viewed_again(graph, value, renewed, last)
            _replace(value, last, again)
    if chain and _is_used_after(written, last):
        again, last = _viewed_again(graph, target, renewed, last)
        _replace(written, last, again)


def _origin(value: Any) -> tuple[Any, list[Any]]:
    """The tensor that a value is a view of, and the operations on the way to it, the value's own first."""
    chain = []
    while _is_view(value.node()):
        chain.append(value.node())
        value = next(value.node().inputs())
    return value, chain


def _family(root: Any, node: Any) -> Iterator[Any]:
    """Yields a tensor and all views of it that are there before an operation, each after what it is a view of."""
    yield root
    for use in root.uses():
        if use.offset == 0 and use.user.isBefore(node) and _is_view(use.user):
            for result in use.user.outputs():
                yield from _family(result, node)


def _is_view(node: Any) -> bool:
    """Whether the result of an operation shares the memory of its first operand."""
    kind = node.kind()
    if kind not in _VIEWS:
        return False
    if kind.removeprefix("aten::") in _SAME:
        given, result = next(node.inputs()).type(), node.output().type()
        if kind == "aten::contiguous":
            return bool(given.strides() == result.strides())
        return bool(given.scalarType() == result.scalarType())
    return True


def _is_used_after(value: Any, node: Any) -> bool:
    return any(use.user.isAfter(node) for use in value.uses())


def _replace(old: Any, last: Any, new: Any) -> None:
    if old.debugName() != new.debugName():
        old.replaceAllUsesAfterNodeWith(last, new)


def _overwrite(graph: Any, node: Any, target: Any) -> Any:
    """The operations in place of one that writes, which give a value the shape and the type of what it replaces."""
    graph.setInsertPoint(node)
    if node.kind() == "aten::zero_":
        value = graph.insertConstant(0)
    else:
        value = node.inputsAt(1)
    if not isinstance(value.type(), torch.TensorType):
        nothing = graph.insertConstant(None)
        written = _after(graph, node, "aten::full_like", [target, value, *[nothing] * 5], target)
        node.output().replaceAllUsesWith(written.output())
        node.destroy()
        return written
    whole = _after(graph, node, "aten::expand_as", [value, target], target)
    written = _after(graph, whole, "aten::type_as", [whole.output(), target], target)
    node.output().replaceAllUsesWith(written.output())
    node.destroy()
    return written


def _written_back(graph: Any, view: Any, new: Any, last: Any) -> Any:
    """The operation after the last one that puts new values of a view into what it is a view of."""
    base, *rest = view.inputs()
    kind = view.kind().removeprefix("aten::")
    if kind in ("select", "slice"):
        return _after(graph, last, f"aten::{kind}_scatter", [base, new, *rest], base)
    if kind in _RESHAPING or kind in _SAME:
        return _after(graph, last, "aten::view_as", [new, base], base)
    if kind in ("swapaxes", "t", "transpose"):
        return _after(graph, last, view.kind(), [new, *rest], base)
    if kind == "permute" and (axes := _permuted_back(graph, rest[0], last)) is not None:
        return _after(graph, axes, view.kind(), [new, axes.output()], base)
    raise UnsupportedModelError(
        f"{view.scopeName() or 'the module'} writes in place into a view by {kind}: a trace cannot be made functional"
    )


def _permuted_back(graph: Any, order: Any, last: Any) -> Any:
    """The operation after the last one that lists the axes of the inverse of a permutation; None if it is no list."""
    if order.node().kind() != "prim::ListConstruct":
        return None
    values = [*order.node().inputs()]
    axes = [value.toIValue() for value in values]
    if None in axes:
        return None
    axes = [axis % len(axes) for axis in axes]
    # The numbers of the inverse are those of the permutation in another order.
    inverse = [values[axes.index(axes.index(axis))] for axis in range(len(axes))]
    return _after(graph, last, "prim::ListConstruct", inverse, order)


def _viewed_again(graph: Any, value: Any, renewed: dict[str, Any], last: Any) -> tuple[Any, Any]:
    """The same view of the new tensor, after the last operation, and what is the last one then."""
    if value.debugName() in renewed:
        return renewed[value.debugName()], last
    view = value.node()
    base, *rest = view.inputs()
    base, last = _viewed_again(graph, base, renewed, last)
    clone = graph.create(view.kind(), [base, *rest], view.outputsSize())
    clone.copyAttributes(view)
    clone.copyMetadata(view)
    clone.insertAfter(last)
    for old, new in zip(view.outputs(), clone.outputs(), strict=True):
        new.setType(old.type())
        renewed[old.debugName()] = new
    return renewed[value.debugName()], clone


def _after(graph: Any, last: Any, kind: str, inputs: list[Any], like: Any) -> Any:
    created = graph.create(kind, inputs, 1)
    created.copyMetadata(last)
    created.insertAfter(last)
    created.output().setType(like.type())
    return created
