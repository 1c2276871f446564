"""Taking a program through coremltools once more without gaining operations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def gathers_as_they_are() -> Iterator[None]:
    """Keeps coremltools from guarding the indices of a `gather` again.

    From iOS 17 on it puts four integer operations before each `gather` of signed indices, which make negative ones
    positive. It does so whenever a program passes through, and does not see that it has done so before: each step of
    a compression would add four operations that the Neural Engine does not run.
    """
    from coremltools.converters.mil.mil.passes.defs.optimize_tensor_operation import guard_negative_gather_indices

    apply = guard_negative_gather_indices.apply

    def leave(_self: Any, _program: Any) -> None:
        """Does nothing: an exported program has its guards."""

    guard_negative_gather_indices.apply = leave
    try:
        yield
    finally:
        guard_negative_gather_indices.apply = apply
