"""Ends a copy of this process at a chosen step, as a kill does: nothing is cleaned up."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from unittest import mock

from optimum_ane.package import file_operations
from optimum_ane.progress import Stages

STEPS = ("make_directory", "create", "synchronize", "rename", "exchange", "unlink", "remove_directory")
KILLED = 86


class Counter:
    """Counts the points of a run at which it can be stopped, and stops it at one.

    Args:
        stop: The number of the point at which the process ends, from 1 on; None only counts.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.count, self._stop = 0, stop

    def pass_point(self) -> None:
        """One more point; ends the process at the chosen one."""
        self.count += 1
        if self.count == self._stop:
            os._exit(KILLED)


@contextmanager
def crash_points(counter: Counter) -> Iterator[None]:
    """Makes points of the steps of the file system, of the middle of each write, and of the begin of each stage."""
    patches = [mock.patch.object(file_operations, name, _with_point(name, counter)) for name in STEPS]
    patches.append(mock.patch.object(file_operations, "write", _in_two_parts(counter)))
    # A kill loses nothing that is written; the order of these calls has a test of its own.
    patches.append(mock.patch.object(os, "fsync"))
    patches.append(mock.patch.object(Stages, "stage", _stage_with_point(counter)))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def run_copy(run: Callable[[], object], stop: int | None = None) -> int:
    """Runs something in a copy of this process, which ends at a point.

    Args:
        run: What is run.
        stop: See `Counter`.

    Returns:
        The exit code: 0 where it came to its end, `KILLED` where the point stopped it, 1 where it failed by itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
            crash_points(Counter(stop)),
        ):
            run()
    except BaseException:  # noqa: BLE001 - the copy must end here, whatever it was
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def count_points(run: Callable[[], object]) -> int:
    """How many points a run has; it is run in a copy of this process.

    Raises:
        RuntimeError: The run failed.
    """
    reader, writer = os.pipe()
    counter = Counter()

    def counted() -> None:
        with crash_points(counter):
            run()
        os.write(writer, str(counter.count).encode())

    code = run_copy(counted)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    if code or not text:
        raise RuntimeError(f"the run without a fault ended with code {code}")
    return int(text)


def _with_point(name: str, counter: Counter) -> Callable[..., Any]:
    real = getattr(file_operations, name)

    def step(*arguments: Any) -> Any:
        counter.pass_point()
        return real(*arguments)

    return step


def _in_two_parts(counter: Counter) -> Callable[[IO[bytes], bytes], None]:
    real = file_operations.write

    def write(file: IO[bytes], content: bytes) -> None:
        half = len(content) // 2
        counter.pass_point()
        real(file, content[:half])
        counter.pass_point()
        real(file, content[half:])

    return write


def _stage_with_point(counter: Counter) -> Callable[..., Any]:
    real = Stages.stage

    def stage(self: Stages, name: str) -> Any:
        counter.pass_point()
        return real(self, name)

    return stage
