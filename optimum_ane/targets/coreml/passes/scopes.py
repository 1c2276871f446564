"""Which module an operation comes from, handed on to the operations that a pass makes in its place."""

from __future__ import annotations

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Operation
from coremltools.converters.mil.mil.scope import ScopeContextManager, ScopeInfo, ScopeSource


def scope_of(operation: Operation, otherwise: Operation | None = None) -> ScopeContextManager:
    """Gives what is built in the block the scopes of an operation: its module, and the line of source it comes from.

    A program that was converted from PyTorch is refused by coremltools where one operation lacks them. By itself
    coremltools hands scopes on to the operation that replaces a value, and to the constants that it reads, and to
    nothing in between.

    Args:
        operation: Whose scopes.
        otherwise: Whose scopes where the operation has none.
    """
    scopes = operation.scopes or (otherwise.scopes if otherwise is not None else {})
    # The passes that an operation went through are coremltools' own affair: it appends the one that runs.
    kept = {source: data for source, data in scopes.items() if source is not ScopeSource.COREMLTOOLS_GRAPH_PASS}
    return mb.scope(*(ScopeInfo(source=source, data=list(data)) for source, data in kept.items() if data))
