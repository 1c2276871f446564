"""Progress on the screen: the stages of a job with the seconds that each took, and bars over rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from optimum_ane.screen import make_console


class Stages:
    """A bar over the stages of a job, on stderr; a line per stage where stderr is not a terminal.

    Args:
        count: How many stages there will be.
        quiet: Show nothing, only measure.
    """

    def __init__(self, count: int, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._count = count
        # Bound to today's stderr: coremltools' own bars are kept off the screen by swapping sys.stderr for a while.
        self._console = make_console(file=sys.stderr, quiet=quiet)
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=count)

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line: what was decided that the user did not ask for."""
        self._console.print(text, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a stage; its line is printed when it ends well."""
        self._bar.update(self._task, description=name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self._bar.advance(self._task)
        number = f"{len(self.seconds)}/{self._count}"
        self._console.print(f"[{number}] {name:<34} {self.seconds[name]:6.1f} s")


Progress = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


def silent(done: int, total: int) -> None:
    """Shows nothing."""


@contextmanager
def row_progress(description: str) -> Iterator[Progress]:
    """Shows a bar on stderr while the block runs; where stderr is not a terminal, nothing."""
    console = make_console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
