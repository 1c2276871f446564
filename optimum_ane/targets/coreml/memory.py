"""Refuses what is told by places in memory where programs, which have no memory, would answer something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimum_ane.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

_KEEP_ORDER = ("contiguous", "detach", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view")
_CHANGE_ORDER = (
    "as_strided", "chunk", "diagonal", "expand", "narrow", "numpy_T", "permute", "select", "slice", "split",
    "split_with_sizes", "t", "transpose", "unbind", "unfold",
)  # fmt: skip


def check_traced_memory(traced: torch.jit.ScriptModule) -> None:
    """Checks that `as_strided` in a trace is given tensors whose elements lie one after the other, from the first on.

    Raises:
        UnsupportedModelError: One is a part or a rearrangement of another tensor.
    """
    for node in traced.forward.graph.nodes():  # type: ignore[attr-defined]
        if node.kind() == "aten::as_strided" and not _is_whole(next(node.inputs())):
            raise _refusal(node.scopeName())


def check_exported_memory(program: ExportedProgram) -> None:
    """Checks the same of an export.

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
    """Whether a traced value is computed as a whole, or is such a one with other axes."""
    if not _lies_in_order(value):
        return False
    node = value.node()
    while (kind := node.kind().removeprefix("aten::")) in _KEEP_ORDER:
        given = next(node.inputs())
        if not _lies_in_order(given):
            return True  # what lies in order and comes from what does not is a copy
        node = given.node()
    return kind not in _CHANGE_ORDER and node.kind() not in ("prim::ListUnpack", "prim::TupleUnpack", "prim::GetAttr")


def _lies_in_order(value: Any) -> bool:
    """Whether the strides that the tracer saw are those of a tensor without gaps."""
    sizes, strides = value.type().sizes(), value.type().strides()
    if sizes is None or strides is None:
        return False
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _refusal(place: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"as_strided in {place or 'the module'} reads the memory of a tensor that is a part or a rearrangement of "
        "another: a program cannot know what lies there"
    )
