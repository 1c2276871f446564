"""Cases one after another or a few at once, each in a process of its own that is limited in time and memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from coverage_sweep.catalogue import Case
from coverage_sweep.record import Record

SECONDS, BYTES = 180, 6 * 2**30
"""Limits of one case, in seconds of a core: half of them take less than 3. Networks that are unrolled over time take
minutes."""

_PATIENCE = 20
"""How many times longer it may take on a machine that is busy with something else."""

_HEAVY = [
    "torch",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.modeling_rope_utils",
    "coremltools",
    "coverage_sweep.attempt",
    "coverage_sweep.cached",
    "coverage_sweep.written",
]
"""Loaded once, in the server that the processes are forked from: it is most of what a case would take."""

_WAIT = 0.2
"""Seconds between two looks at what runs."""


@dataclass
class _Running:
    """A process, what it is doing, and when it has to be done."""

    process: ForkServerProcess
    connection: Connection
    case: Case
    end: float


def run(
    cases: Sequence[tuple[Case, Record | None]], jobs: int, seconds: int = SECONDS, memory: int = BYTES
) -> Iterator[Record]:
    """Tries cases, or checks accepted ones.

    Args:
        cases: What to try; with a record, that record is checked with other weights and inputs instead.
        jobs: How many at once.
        seconds: Most that one may take of a core.
        memory: Most bytes that one may hold.

    Yields:
        A record for each case, as they are done.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_HEAVY)
    # The server looks for them where Python does, and passes by what it does not find.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    waiting, running = list(cases), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                case, accepted = waiting.pop(0)
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, case, accepted, seconds, memory), daemon=True)
                process.start()
                theirs.close()
                running.append(_Running(process, mine, case, time.monotonic() + _PATIENCE * seconds))
            for each in list(running):
                record = _finished(each, seconds)
                if record is not None:
                    running.remove(each)
                    earlier = next(own for case, own in cases if case == each.case)
                    yield _merged(earlier, record)
            time.sleep(_WAIT)
    finally:
        for each in running:
            each.process.kill()


def _finished(running: _Running, seconds: int) -> Record | None:
    """The record of a process that has ended or run out of time; None while it may go on."""
    case, process = running.case, running.process
    if running.connection.poll():
        try:
            record = running.connection.recv()
        except EOFError:
            process.join()
            reason = f"the process ended with code {process.exitcode}"
            if process.exitcode == -signal.SIGXCPU:
                reason = f"took more than {seconds} s"
            record = Record(case.key, case.group, "refused", reason)
        process.join()
        return record
    if time.monotonic() > running.end:
        process.kill()
        process.join()
        return Record(case.key, case.group, "refused", f"took more than {seconds} s", seconds=float(seconds))
    return None


def _merged(accepted: Record | None, found: Record) -> Record:
    """A check adds to what was recorded of a case."""
    if accepted is None:
        return found
    return replace(accepted, checked=found.checked, check=found.check or found.reason, exact=found.exact)


def _work(connection: Connection, case: Case, accepted: Record | None, seconds: int, memory: int) -> None:
    """What a process does: `RLIMIT_DATA` counts what it can write to, unlike `RLIMIT_AS` with its mapped libraries."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    used = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 10))
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _be_silent()
    try:
        connection.send(_try_or_check(case, accepted))
    except Exception as error:  # noqa: BLE001 - it is the process's last word
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        reason = f"{type(error).__name__}: {str(error).strip()[:200]} ({place})"
        connection.send(Record(case.key, case.group, "refused", reason))


def _try_or_check(case: Case, accepted: Record | None) -> Record:
    from coverage_sweep import attempt, cached, written

    if case.part == "written":
        return written.try_written(case) if accepted is None else written.check_written(case, accepted)
    if case.part == "cached":
        return cached.try_cached(case) if accepted is None else cached.check_cached(case, accepted)
    if accepted is None:
        return attempt.try_case(case)
    return attempt.check_case(case, accepted)


def _be_silent() -> None:
    """Keeps what libraries print off the screen, those in C++ too."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
