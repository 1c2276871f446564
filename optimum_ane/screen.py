"""What is printed goes through here: names, labels and texts of others reach the screen as text, and as nothing else.

A terminal acts on escape sequences: they move the cursor, write over what stands there, set the clipboard or the
window's title. Names of operations, files, columns and labels, and what a model writes, may hold any of them.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderHook, RenderResult
    from rich.measure import Measurement

_HIDDEN = frozenset({"Cc", "Cs"})
"""Unicode's categories of control characters and of halves of surrogate pairs, which no terminal can be sent."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""Marks that turn the direction of what follows, so that it reads as something else, and Unicode's own line ends."""


def visible(text: str) -> str:
    r"""A text as it may be printed: what a terminal would act on is written as an escape such as `\x1b`.

    Tabs and ends of lines stay. Marks of direction are escaped too; letters that are written from the right stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        repr(character)[1:-1]
        if character not in "\n\t" and (unicodedata.category(character) in _HIDDEN or character in _TURNING)
        else character
        for character in text
    )


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Prints, as `print` does, what `visible` makes of a text.

    Args:
        text: What is said.
        file: Where to; None stands for stdout.
        end: What follows.
        flush: Whether it is written at once.
    """
    print(visible(str(text)), file=file or sys.stdout, end=end, flush=flush)


def make_console(*, file: TextIO | None = None, wraps: bool = True, quiet: bool = False) -> Console:
    """A console of rich whose texts go through `visible`, and mean nothing to rich's own markup.

    Args:
        file: Where it prints; None stands for stdout.
        wraps: Whether long lines are broken at the width of the screen.
        quiet: Whether it prints nothing.
    """
    from rich.console import Console

    console = Console(file=file or sys.stdout, highlight=False, markup=False, soft_wrap=not wraps, quiet=quiet)
    console.push_render_hook(cast("RenderHook", _Visible()))
    return console


class _Visible:
    """Wraps whatever is printed; rich calls it for each `print`."""

    def process_renderables(self, renderables: Iterable[Any]) -> list[Any]:
        """See `rich.console.RenderHook`."""
        return [_VisibleText(each) for each in renderables]


class _VisibleText:
    """A renderable whose texts are made visible when all else is done; what rich itself sends a terminal stays."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the segments of what is wrapped."""
        from rich.segment import Segment

        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Measures what is wrapped."""
        from rich.measure import Measurement

        return Measurement.get(console, options, self._renderable)
