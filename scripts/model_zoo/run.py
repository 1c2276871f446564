"""Runs jobs in a pool, whatever becomes of each, and says what did."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_zoo.catalog import Job, Model
from model_zoo.display import Display
from model_zoo.pools import End, Pool, Running
from model_zoo.records import Record, Workplace, is_exported, is_published, make_key, source_of
from model_zoo.worker import Order
from optimum_ane.errors import ANEError
from optimum_ane.package.recovery import clean

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """What is left to do of a job.

    Attributes:
        job: The job.
        steps: Of `"export"` and `"publish"`; empty where all is done and unchanged.
        order: For the worker; None where the source cannot be found.
        reason: Why it cannot be found.
    """

    job: Job
    steps: tuple[str, ...]
    order: Order | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        status: `"not run"` is a job that an interrupt came before.
        seconds: That it took this time.
        reason: Of a failure.
    """

    job: Job
    status: Literal["done", "unchanged", "failed", "interrupted", "not run"]
    seconds: float = 0.0
    reason: str | None = None


def make_plans(jobs: Iterable[Job], output: Path, private: bool | None) -> list[Plan]:
    """Looks at sources and records, and tells what is left to do; asks the Hub once for each source."""
    sources: dict[Model, str | ANEError] = {}
    plans = []
    for job in jobs:
        if job.model not in sources:
            try:
                sources[job.model] = source_of(job.model)
            except ANEError as error:
                sources[job.model] = error
        source = sources[job.model]
        if isinstance(source, ANEError):
            plans.append(Plan(job, ("export",), reason=str(source)))
            continue
        plans.append(_plan(job, output, source, private))
    return plans


def _plan(job: Job, output: Path, source: str, private: bool | None) -> Plan:
    workplace, key = Workplace(output), make_key(job, source)
    package, record = workplace.package(job), Record.read(workplace.record(job))
    exported = is_exported(record, key, package)
    published = job.repository is None or (exported and is_published(record, job, package))
    steps = tuple(step for step, done in (("export", exported), ("publish", published)) if not done)
    return Plan(job, steps, Order(job, output, key, source, private))


def clean_up(plans: Iterable[Plan], workplace: Workplace) -> None:
    """Removes what killed runs have left, also of jobs that are done; see `optimum-cli ane clean`."""
    folders = {path.parent for plan in plans for path in (workplace.package(plan.job), workplace.record(plan.job))}
    for folder in (workplace.root, *sorted(folders)):
        clean(folder)


def run(plans: Sequence[Plan], pool: Pool, display: Display, workplace: Workplace) -> list[Outcome]:
    """Runs what is left to do. A failure or a dead worker ends its own job alone; Ctrl-C ends all, cleanly.

    Returns:
        One outcome for each plan, in their order.
    """
    clean_up(plans, workplace)
    outcomes: dict[str, Outcome] = {}
    waiting: deque[Order] = deque()
    for plan in plans:
        if plan.order is None:
            _settle(outcomes, display, Outcome(plan.job, "failed", reason=plan.reason))
        elif not plan.steps:
            _settle(outcomes, display, Outcome(plan.job, "unchanged"))
        else:
            waiting.append(plan.order)
    running: dict[str, tuple[Job, Running, float]] = {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < pool.slots:
                order = waiting.popleft()
                job, log = order.job, workplace.log(order.job)
                running[job.id] = (job, pool.start(order, log), time.monotonic())
                display.started(job, log)
            for job, worker, start in list(running.values()):
                end = worker.poll()
                if end is not None:
                    del running[job.id]
                    seconds = time.monotonic() - start
                    _settle(outcomes, display, _outcome(job, end, workplace.log(job), seconds))
            display.refresh()
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        # A second Ctrl-C must not leave workers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for job, _, start in running.values():
            _settle(outcomes, display, Outcome(job, "interrupted", time.monotonic() - start))
    finally:
        for _, worker, _ in running.values():
            worker.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return [outcomes.get(plan.job.id, Outcome(plan.job, "not run")) for plan in plans]


def _settle(outcomes: dict[str, Outcome], display: Display, outcome: Outcome) -> None:
    outcomes[outcome.job.id] = outcome
    display.ended(outcome.job, outcome.status, outcome.reason)


def _outcome(job: Job, end: End, log: Path, seconds: float) -> Outcome:
    if end.code == 0:
        return Outcome(job, "done", seconds)
    return Outcome(job, "failed", seconds, end.reason or _reason(end.code, log))


def _reason(code: int | None, log: Path) -> str:
    if code == 1:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[-1].startswith("error: "):
            return lines[-1].removeprefix("error: ")
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        advice = "the system may have run out of memory, try fewer --jobs; " if name == "SIGKILL" else ""
        return f"the process was ended by {name}; {advice}see {log}"
    return f"the process ended with code {code}; see {log}"
