"""Ctrl-C, SIGTERM and SIGHUP: all three unwind, and none breaks off a clean-up."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_Handler = Callable[[int, FrameType | None], None]

_ONE_SIGNAL = 1.0
"""Seconds within which a second signal says no more than the first: the first is still on its way up."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program.

    Args:
        number: The signal's.
        state: What stands on disk now, if that is something else than before: `"out is in place"`.
    """

    def __init__(self, number: int, state: str | None = None) -> None:
        super().__init__(number)
        self.number, self.state = number, state


@contextmanager
def unwinding_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise as Ctrl-C does, so that what is under way is cleaned up; for a whole command.

    A signal that is ignored, as SIGHUP is under nohup, stays so. Outside the main thread nothing is changed.

    Raises:
        Interrupted: A signal came.
    """
    last = -_ONE_SIGNAL

    def unwind(number: int, _: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _ONE_SIGNAL:
            last = now
            raise Interrupted(number)

    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    with _handled(dict.fromkeys(numbers, unwind)):
        yield


def ignore_signals_at_exit() -> None:
    """Lets Python end in peace: a further signal would break off what it does last, with a traceback."""
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Keeps signals that would raise an exception until the block ends, for a step that must be done whole.

    Gives a list of those that came; what the block leaves in it is raised at its end, as it would have been. Signals
    that end a process without an exception still do.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    try:
        with _handled(dict.fromkeys(before, note)):
            yield received
    finally:
        for number in received:
            before[number](number, None)


@contextmanager
def _handled(handlers: Mapping[int, _Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only in it do they raise
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
