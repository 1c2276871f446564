"""A command in a process of its own, with the time and the memory that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OPTIMUM_CLI = Path(sys.executable).with_name("optimum-cli")
"""Of this environment, whatever the shell finds first."""


@dataclass(frozen=True)
class Run:
    """What a process took: seconds, and bytes at the peak."""

    seconds: float
    peak: int


def run_timed(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Runs a command to its end, in the root directory.

    Args:
        command: The program and its arguments; paths are absolute.
        environment: Its variables; None are those of this process.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{errors.decode(errors='replace')[-2000:]}")
    # Kilobytes on Linux, bytes on macOS.
    return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
