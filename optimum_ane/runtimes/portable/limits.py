"""What a program may ask of the machine: the limits that keep a hostile package from taking it down.

A package of a hundred bytes can ask for a tensor of a hundred gigabytes (`fill`, `tile`, `pad`, a sum of a row and a
column), for a product that takes a year, or for a loop that never ends. Ordinary models stay far below these numbers;
whoever runs one that does not may raise them (`limits.MAX_ELEMENTS = …`), as they are read when they are needed.

    MAX_ELEMENTS   elements of one value: 2**31, 8 GiB as float32
    MAX_WORK       elements written and multiplications, in one prediction: 2**48, an hour or so of one core
    MAX_TURNS      turns of all loops in one prediction, and steps of a sequence or of a selection of boxes: 2**20
    MAX_PARAMETER  elements of a parameter that an operation takes as Python numbers, and of a list: 2**20
    MAX_RANK       axes of a value: 16; Core ML has 5
    memory()       bytes of all constants: three quarters of the machine's memory; the values alive at once have half
                   of that
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_ELEMENTS = 2**31
MAX_WORK = 2**48
MAX_TURNS = 2**20
MAX_RANK = 16
MAX_PARAMETER = 2**20

_FALLBACK_BYTES = 2**33
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class LimitError(ValueError):
    """A program asks for more than these limits; what catches it adds the package and the place."""


@functools.cache
def memory() -> int:
    """Returns how many bytes values may take: three quarters of the machine's memory, or of the container's."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        total = _FALLBACK_BYTES
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, int(_CGROUP.read_text()))
    return total // 4 * 3


def check_extents(shape: Sequence[int], what: str = "a value") -> int:
    """Checks a shape that is about to be made, and returns its number of elements.

    An axis of extent 0 hides no other from the limit: torch computes strides from the others all the same.

    Raises:
        LimitError: It is negative, of too many axes, or too large.
    """
    if len(shape) > MAX_RANK:
        raise LimitError(f"{what} of {len(shape)} axes; at most {MAX_RANK} are taken")
    if min(shape, default=0) < 0:
        raise LimitError(f"{what} of the impossible shape {_text(shape)}")
    if math.prod(max(1, extent) for extent in shape) > MAX_ELEMENTS:
        raise LimitError(f"{what} of shape {_text(shape)}; at most {MAX_ELEMENTS} elements are made")
    return math.prod(shape)


def _text(shape: Sequence[int]) -> str:
    """Writes a shape; of a number with thousands of digits only that it is one."""
    return "(" + ", ".join(str(n) if abs(n) < 2**64 else "> 2**64" for n in shape) + ")"


class Budget(threading.local):
    """What the prediction of this thread has used so far."""

    def __init__(self) -> None:
        self.work = 0
        self.turns = 0

    def spend(self, work: int) -> None:
        """Counts work that is about to be done."""
        self.work += work
        if self.work > MAX_WORK:
            raise LimitError(f"the prediction takes more than {MAX_WORK} elementary steps")

    def turn(self) -> None:
        """Counts a turn of a loop."""
        self.turns += 1
        if self.turns > MAX_TURNS:
            raise LimitError(f"the loops of one prediction take more than {MAX_TURNS} turns")


BUDGET = Budget()


@contextmanager
def prediction() -> Iterator[None]:
    """Begins with a full budget, and restores what was before: an observer may predict in turn."""
    before = BUDGET.work, BUDGET.turns
    BUDGET.work = BUDGET.turns = 0
    try:
        yield
    finally:
        BUDGET.work, BUDGET.turns = before
