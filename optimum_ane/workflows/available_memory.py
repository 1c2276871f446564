"""How much memory this process can still take before the system or its container stops it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that are free or can be freed: the least of what machine and control groups leave.

    Args:
        root: Where `proc` and `sys` are looked for.

    Returns:
        On Linux what /proc/meminfo calls available, or less in a container with a limit. On macOS, which compresses
        and swaps before it stops a process, the whole memory. None elsewhere.
    """
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [*_of_machine(root / "proc/meminfo"), *_of_groups(root)]
    return min(found, default=None)


def _of_machine(meminfo: Path) -> Iterator[int]:
    with suppress(OSError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
        if match is not None:
            yield 1024 * int(match[1])


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group around this process leaves, from its own to the outermost; version 2, then version 1."""
    paths = {"/"}
    with suppress(OSError):
        paths |= {line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()}
    for folder, limit, usage, cache in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        for path in paths:
            parts = Path(path.lstrip("/")).parts
            for depth in range(len(parts) + 1):
                group = root.joinpath(folder, *parts[:depth])
                # A group without a limit says "max", or has no such file.
                with suppress(OSError, ValueError):
                    left = int((group / limit).read_text()) - int((group / usage).read_text())
                    yield max(0, left + _reclaimable(group / "memory.stat", cache))


def _reclaimable(statistics: Path, cache: str) -> int:
    """Bytes of files that the kernel drops when memory is short; those in shared memory it cannot drop."""
    with suppress(OSError, ValueError):
        values = dict(line.split() for line in statistics.read_text().splitlines())
        return max(0, int(values.get(cache, 0)) - int(values.get("shmem", 0)))
    return 0
