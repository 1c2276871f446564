"""One row of the table that `make verify` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY / "../shared"


class MissingError(Exception):
    """What a measurement needs is not on this machine; the message names it."""


@dataclass(frozen=True)
class Row:
    """What was asked for and what was measured.

    Attributes:
        what: The quantity.
        asked: The limit.
        measured: The value, or why there is none.
        is_met: Whether the value keeps the limit; None where it could not be measured.
    """

    what: str
    asked: str
    measured: str
    is_met: bool | None


def shared(path: str) -> Path:
    """A checkpoint or dataset of the folder beside the repository.

    Raises:
        MissingError: It is not there.
    """
    found = (SHARED / path).resolve()
    if not found.exists():
        raise MissingError(f"needs {path} in {SHARED.resolve()}, which is not part of the repository")
    return found
