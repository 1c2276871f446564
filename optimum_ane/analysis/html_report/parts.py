"""What a section of the report is made of; `page.html` shows each kind in its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph; `soft` ones are remarks."""

    kind: ClassVar[str] = "text"
    text: str
    soft: bool = False


@dataclass(frozen=True)
class Code:
    """A line to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Legend:
    """The legend of the strips: operations by verdict."""

    kind: ClassVar[str] = "legend"
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Figure:
    """An SVG element of our own making; the one part that is not escaped."""

    kind: ClassVar[str] = "figure"
    svg: str


@dataclass(frozen=True)
class Table:
    """Rows of text; `numeric` names the columns that are set flush right."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """What one rule decides: its id, the verdict, which operations, and lines on why, what to do, and who says so."""

    kind: ClassVar[str] = "finding"
    name: str
    verdict: str
    operations: str
    lines: Sequence[str]


Part = Text | Code | Legend | Figure | Table | Finding


@dataclass(frozen=True)
class KeyNumber:
    """A number of the summary, with what it is of."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """A headed part of the page.

    Attributes:
        id: Its anchor.
        title: Its heading.
        parts: From the top down; a section without any is left out.
        key_numbers: What of it stands in the summary.
    """

    id: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)
    key_numbers: Sequence[KeyNumber] = field(default_factory=tuple)
