"""Text of unknown origin, made fit for Markdown, Swift and Python: it can break no table, block or string."""

from __future__ import annotations

import json
import re
import unicodedata

_MAX_CHARACTERS = 300
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_JOINER = "\u200d"
"""Holds emoji of several characters together; all other invisible characters become spaces."""


def plain(value: object) -> str:
    """One line of visible characters, with at most one space between them, cut where it is unreasonably long."""
    visible = (c if c == _JOINER or unicodedata.category(c)[0] != "C" else " " for c in str(value))
    text = " ".join("".join(visible).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


def escape(value: object) -> str:
    """Text that Markdown shows as it is, in a paragraph or a table's cell."""
    return _SPECIAL.sub(r"\\\1", plain(value))


def code(value: object) -> str:
    """Text as inline code; as escaped text where a code span in a table cannot hold it."""
    text = plain(value)
    return f"`{text}`" if text and not set(text) & {"`", "|"} else escape(text)


def block(content: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [
        "".join(c for c in line if unicodedata.category(c)[0] != "C" or c == "\t") for line in content.split("\n")
    ]
    return "\n".join([f"{fence}{language}", *lines, fence])


def swift_string(value: str) -> str:
    r"""A string literal of Swift; `\(` of an interpolation is escaped with the backslash."""

    def escaped(character: str) -> str:
        if character in '"\\':
            return f"\\{character}"
        if unicodedata.category(character) == "Cs":
            return "\\u{FFFD}"
        return f"\\u{{{ord(character):X}}}" if unicodedata.category(character)[0] == "C" else character

    return f'"{"".join(map(escaped, value))}"'


def python_string(value: str) -> str:
    """A string literal of Python, in double quotes."""
    return json.dumps(value)
