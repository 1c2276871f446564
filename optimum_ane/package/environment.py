"""What kind of machine and which versions a number belongs to."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version

VERSIONED = ("coremltools", "torch", "transformers")
"""Libraries whose versions stand beside every number."""


def machine_kind() -> str:
    """System, architecture and PyTorch's threads; nothing that tells one machine of its kind from another."""
    import torch

    return f"{platform.system()} {platform.machine()}, PyTorch threads: {torch.get_num_threads()}"


def tool_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on."""
    return {name: version(name) for name in VERSIONED}


def peak_memory() -> int:
    """The most resident memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
