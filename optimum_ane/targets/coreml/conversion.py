"""The ways in which a module becomes a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Conversion:
    """One way from a module to a program.

    Attributes:
        capture: What records the module's graph: `"trace"` is `torch.jit.trace`, `"export"` is `torch.export`.
        is_stock: Whether the module is written for PyTorch and not for the Neural Engine, so that translations which
            coremltools lacks are added, and its passes are those of `graph_pass_pipeline`.
        engine_layout: Whether a pass rewrites the program into the engine's layout; for stock modules.
    """

    capture: Literal["trace", "export"] = "trace"
    is_stock: bool = False
    engine_layout: bool = False


HANDWRITTEN = Conversion()
"""A module that is written in the engine's layout."""

GRAPH_CONVERSIONS = (
    Conversion("trace", is_stock=True, engine_layout=True),
    Conversion("export", is_stock=True, engine_layout=True),
    Conversion("trace", is_stock=True),
    Conversion("export", is_stock=True),
)
"""The ways to convert a stock module, in the order in which they are tried until one passes every check."""
