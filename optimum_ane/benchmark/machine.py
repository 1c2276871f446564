"""What kind of machine and which versions a number belongs to; nothing that tells two machines of a kind apart."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from optimum_ane.version import __version__

_CPUINFO = Path("/proc/cpuinfo")
VERSIONED = ("coremltools", "numpy", "torch", "transformers")


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Attributes:
        chip: `"Apple M2"`, or the processor's model name.
        system: Operating system and its version.
        architecture: As Python names it: `"arm64"`, `"x86_64"`.
        cores: That the system shows.
        threads: PyTorch's, of one prediction.
    """

    chip: str
    system: str
    architecture: str
    cores: int | None
    threads: int

    def __str__(self) -> str:
        cores = "" if self.cores is None else f", {self.cores} cores"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.chip}{cores}, {self.system}, {self.architecture}; PyTorch on {threads}"


def this_machine() -> Machine:
    """Looks at the machine that this runs on."""
    return Machine(chip_name(), system_name(), platform.machine(), os.cpu_count(), torch.get_num_threads())


def chip_name() -> str:
    """The processor's model name; its architecture where the system does not tell."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            name = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            name = ""
    else:
        name = _from_cpuinfo()
    return name or platform.machine() or "unknown"


def system_name() -> str:
    """`"macOS 15.5"`, or the name of the Linux distribution or other system and its release."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a time depends on."""
    return {
        "optimum-ane": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONED},
    }


def _from_cpuinfo() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return " ".join(value.split())
    return ""
