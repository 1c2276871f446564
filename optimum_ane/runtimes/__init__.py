"""Engines that run a program: `coreml` on macOS, `portable` anywhere, `torch` before conversion."""

from __future__ import annotations

import sys
from pathlib import Path

from optimum_ane.errors import RuntimeUnavailableError
from optimum_ane.package.form import COMPUTE_UNITS
from optimum_ane.runtimes.session import Session, State, TensorSpec

RUNTIMES = ("auto", "coreml", "portable")

__all__ = ["RUNTIMES", "Session", "State", "TensorSpec", "open_session"]


def open_session(package: str | Path, runtime: str = "auto", compute_units: str = "cpu_and_ne") -> Session:
    """Loads a package with one of the engines.

    Args:
        package: The `.mlpackage` folder.
        runtime: `"coreml"`, `"portable"`, or `"auto"`: Core ML on macOS and portable elsewhere.
        compute_units: Where Core ML may run it: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"` or `"cpu_only"`. The
            portable runtime runs on the CPU whatever is asked for.

    Raises:
        RuntimeUnavailableError: The engine or the compute units are not known, or Core ML was asked for off macOS.
        PackageError: The package is damaged.
        UnsupportedOperationError: The portable runtime lacks operations of the program.
    """
    if compute_units not in COMPUTE_UNITS:
        raise RuntimeUnavailableError(f"compute units {compute_units!r} are not one of {', '.join(COMPUTE_UNITS)}")
    if runtime not in RUNTIMES:
        raise RuntimeUnavailableError(f"runtime {runtime!r} is not one of {', '.join(RUNTIMES)}")
    if runtime == "coreml" or (runtime == "auto" and sys.platform == "darwin"):
        from optimum_ane.runtimes.coreml import CoreMLSession

        return CoreMLSession(package, compute_units)
    from optimum_ane.runtimes.portable import PortableSession

    return PortableSession(package)
