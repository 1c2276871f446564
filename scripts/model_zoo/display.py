"""What a person sees while jobs run: a live table on a terminal, a line per event elsewhere; on stderr."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from model_zoo.catalog import Job

_TAIL_BYTES = 2000
_MARKS = {"done": "green", "unchanged": "dim", "failed": "red", "interrupted": "yellow"}


class Display:
    """Shows which jobs run, at which stage, and how many are over.

    Args:
        total: How many jobs there are.
        console: Where to; stderr unless given.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._over = total, 0
        self._running: dict[str, tuple[Path, float]] = {}
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def started(self, job: Job, log: Path) -> None:
        """A job was begun."""
        self._running[job.id] = (log, time.monotonic())
        if not self._console.is_terminal:
            self._say("started", job)

    def ended(self, job: Job, status: str, reason: str | None) -> None:
        """A job is over."""
        self._running.pop(job.id, None)
        self._over += 1
        self._say(status, job, reason)

    def refresh(self) -> None:
        """Draws the table anew."""
        if not self._live.is_started:
            return
        table = Table.grid(padding=(0, 2))
        for name, (log, start) in self._running.items():
            table.add_row(Text(name), Text(last_stage(log), style="dim"), Text(f"{time.monotonic() - start:.0f} s"))
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(self._total, self._over, width=40), Text(f"{self._over} of {self._total} jobs"))
        self._live.update(Group(table, bar), refresh=True)

    def _say(self, event: str, job: Job, reason: str | None = None) -> None:
        line = Text(f"[{self._over}/{self._total}] ").append(f"{event:<11} ", style=_MARKS.get(event, ""))
        line.append(job.id + (f": {reason}" if reason else ""))
        self._console.print(line, soft_wrap=True)


def last_stage(log: Path) -> str:
    """The last stage that the export wrote to its log, such as `[4/8] trace and convert`."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "starting"
    stages = [line for line in lines if line.startswith("[") and "/" in line.partition("]")[0]]
    return " ".join(stages[-1].split()[:-2]) if stages else "starting"
