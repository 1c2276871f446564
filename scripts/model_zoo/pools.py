"""Where workers run: processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_zoo.worker import Order

SCRIPTS = Path(__file__).resolve().parents[1]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PATIENCE = 10.0
"""Seconds that an interrupted worker has to clean up."""


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        code: 0 if all is well, 1 if its log ends with the reason, negative for a signal; None if it was never heard
            of again.
        reason: Where neither the log nor the code tells.
    """

    code: int | None
    reason: str | None = None


class Running(Protocol):
    """A worker that was started."""

    def poll(self) -> End | None:
        """How it ended; None while it runs."""
        ...

    def stop(self) -> None:
        """Asks it to end, and leaves nothing running when it returns."""
        ...


class Pool(Protocol):
    """A place where workers run."""

    slots: int
    """How many at once."""

    def start(self, order: Order, log: Path) -> Running:
        """Starts a worker, whose output goes to the log."""
        ...

    def close(self) -> None:
        """Gives back what the pool holds; no worker runs any more."""
        ...


def environment(threads: int) -> dict[str, str]:
    """The variables by which a worker uses so many threads and finds this folder."""
    path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PYTHONPATH"))))
    return dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}


def start_worker(order: Order, log: Path, threads: int) -> subprocess.Popen[str]:
    """Starts the process of a worker; closing its stdin ends it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "model_zoo.worker"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment(threads),
            text=True,
            # Ctrl-C goes to the one that can tell them apart.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(order.to_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once; its code and its log say of what
    return process


def stop_worker(process: subprocess.Popen[str]) -> None:
    """Interrupts a worker, so that it cleans up, and kills it if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class ProcessPool:
    """Processes of this machine.

    Args:
        slots: How many at once.
        threads: Of each.
    """

    def __init__(self, slots: int, threads: int) -> None:
        self.slots, self._threads = slots, threads

    def start(self, order: Order, log: Path) -> Running:
        """See `Pool.start`."""
        return _Process(start_worker(order, log, self._threads))

    def close(self) -> None:
        """See `Pool.close`; there is nothing to give back."""


class _Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def poll(self) -> End | None:
        code = self._process.poll()
        return None if code is None else End(code)

    def stop(self) -> None:
        stop_worker(self._process)
