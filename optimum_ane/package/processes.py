"""Which process something belongs to, and whether that one still runs."""

from __future__ import annotations

import calendar
import functools
import hashlib
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ENDED = ("Z", "X", "x")
"""States of processes that have ended and are still listed."""


@dataclass(frozen=True)
class Process:
    """What tells a process from all others, those of other machines and of other times included.

    Attributes:
        pid: Its number; another process may have it later.
        start: When it started; on Linux clock ticks since the system did, elsewhere seconds since 1970.
        boot: Digest of the start of the system that it runs in.
        place: Digest of the machine's name and of the process namespace, for containers count their own processes.
    """

    pid: int
    start: int
    boot: str
    place: str

    PATTERN = r"(?P<pid>\d+)-(?P<start>\d+)-(?P<boot>[0-9a-f]{8})-(?P<place>[0-9a-f]{8})"

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.boot}-{self.place}"

    @classmethod
    def of_match(cls, match: re.Match[str]) -> Process:
        """Reads what `PATTERN` has found."""
        return cls(int(match["pid"]), int(match["start"]), match["boot"], match["place"])

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        pid = os.getpid()
        start = _start_of(pid)
        assert start is not None  # it runs
        return cls(pid, start, _boot(), _place())

    @property
    def runs(self) -> bool | None:
        """Whether it runs; None where that cannot be told from here: on another machine, or in another container."""
        if self.place != _place():
            return None
        return self.boot == _boot() and _start_of(self.pid) == self.start

    @property
    def is_of_this_boot(self) -> bool:
        """Whether its system is the one that runs here, though it may be in another container of it."""
        return self.boot == _boot()


def _start_of(pid: int) -> int | None:
    """When a process started; None if there is no such process, or it has ended."""
    if _PROC.joinpath("self", "stat").exists():
        try:
            # The name, in brackets, may hold anything.
            entries = _PROC.joinpath(str(pid), "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)
        except OSError:
            return None
        values = entries[1].split()
        return None if values[0] in _ENDED else int(values[19])
    listed = _output("ps", "-o", "state=,lstart=", "-p", str(pid)).split(maxsplit=1)
    if len(listed) < 2 or listed[0][0] in _ENDED:
        return None
    return calendar.timegm(time.strptime(listed[1].strip(), "%a %b %d %H:%M:%S %Y"))


@functools.cache
def _boot() -> str:
    path = _PROC / "sys/kernel/random/boot_id"
    return _digest(path.read_text() if path.exists() else _output("sysctl", "-n", "kern.bootsessionuuid"))


@functools.cache
def _place() -> str:
    namespace = _PROC / "self/ns/pid"
    return _digest(f"{socket.gethostname()} {os.readlink(namespace) if namespace.is_symlink() else ''}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def _output(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout
