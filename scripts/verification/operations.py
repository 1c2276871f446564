"""The operations of coremltools' registry that the portable runtime executes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from optimum_ane.runtimes.portable import program  # noqa: F401 - registers the operations
from optimum_ane.runtimes.portable.constexpr import FORMS
from optimum_ane.runtimes.portable.control import CONTROL
from optimum_ane.runtimes.portable.registry import OPERATIONS
from verification.row import Row

_NOT_ASKED = ("random_", "_const_symbolic")
"""Random operations have no right answer; a symbolic constant is never written to a package."""


def measure(folder: Path) -> Iterator[Row]:
    """Counts them; that each computes the right thing is what `tests/runtimes/portable` tests."""
    del folder
    core = set(SSAOpRegistry.core_ops)
    missing = sorted(core - set(OPERATIONS) - set(CONTROL) - {"const", *FORMS})
    refused = [name for name in missing if not name.startswith(_NOT_ASKED)]
    yield Row(
        "operations of coremltools' registry in the portable runtime",
        "all but random_* and custom layers",
        f"{len(core) - len(missing)} of {len(core)}; left out: {', '.join(missing)}",
        not refused,
    )
