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


@contextlib.contextmanager
def programs_as_they_are() -> Iterator[None]:
    """Keeps coremltools from optimising a program that passes through, which takes most of a compression's time.

    A compression changes nothing but weights; what a program gains by coremltools' default passes it has. The passes
    that make it what Core ML reads are run, those that drop the old weights among them.
    """
    from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

    apply = PassPipelineManager.apply_pipeline

    def leave_default(program: Any, pipeline: Any) -> None:
        """Runs any pipeline but that of optimisations."""
        if str(pipeline) != "default":
            apply(program, pipeline)

    PassPipelineManager.apply_pipeline = leave_default
    try:
        yield
    finally:
        PassPipelineManager.apply_pipeline = staticmethod(apply)
