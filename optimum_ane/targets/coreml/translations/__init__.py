"""Translations of PyTorch's operations that coremltools lacks or gets wrong, each file those of one kind.

A translation that does not cover a case raises; none guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from optimum_ane.targets.coreml.translations import (
    aliases,
    arithmetic,
    assignment,
    attention,
    booleans,
    casts,
    complex_numbers,
    creation,
    padding,
    resizing,
    scattering,
    searching,
    shapes,
)
from optimum_ane.targets.coreml.translations.register import is_translated, registered

__all__ = [
    "aliases",
    "arithmetic",
    "assignment",
    "attention",
    "booleans",
    "casts",
    "complex_numbers",
    "creation",
    "is_translated",
    "missing_translations",
    "padding",
    "resizing",
    "scattering",
    "searching",
    "shapes",
]


@contextmanager
def missing_translations() -> Iterator[None]:
    """Translates what coremltools does not while the block runs, and leaves its table as it was."""
    with registered():
        yield
