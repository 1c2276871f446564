"""What became of one case, and the file of JSON lines that a sweep is resumed from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

LEAST = 50.0
"""dB that an answer in float16 must reach, of those that are tried and of those that are checked."""

Outcome = Literal["accepted", "refused", "not tiny", "no cache"]
"""`"no cache"` where transformers keeps something else of a text than keys and values, of which a program has none."""


LEAST_EXACT = 90.0
"""dB in float32: what reaches it computes the same, and float16 turned a choice, of the best of many scores say."""


@dataclass(frozen=True)
class Attempt:
    """One way of conversion.

    Attributes:
        capture: `"trace"` or `"export"`.
        engine_layout: Whether the program was rewritten into the engine's layout.
        psnr: dB of each input; None where there was no program.
        error: Why it was not accepted.
        module: Where the error arose, as far as that is known.
    """

    capture: str
    engine_layout: bool
    psnr: list[float] | None = None
    error: str | None = None
    module: str | None = None


@dataclass(frozen=True)
class Record:
    """One case after it was tried.

    Attributes:
        key: The case.
        group: Of the page.
        outcome: `"not tiny"` or `"no cache"` where there was nothing to try.
        reason: Why it was not accepted: the error of the first attempt, or why it is not tiny.
        capture: How the accepted program was captured.
        engine_layout: Whether it was rewritten into the engine's layout.
        psnr: dB, the worst of the inputs.
        inputs: How many inputs were compared.
        operations: Of the program, without constants.
        transposes: Among them.
        share: Predicted share of the arithmetic on the engine.
        regions: Predicted.
        seconds: Of the whole case.
        attempts: All that were made, in order.
        checked: dB of the independent check, the worst of its inputs; None where it was not made.
        check: What the check found, where there is no number.
        exact: dB of the check in float32, where float16 stayed below the limit.
    """

    key: str
    group: str
    outcome: Outcome
    reason: str | None = None
    capture: str | None = None
    engine_layout: bool | None = None
    psnr: float | None = None
    inputs: int = 0
    operations: int = 0
    transposes: int = 0
    share: float | None = None
    regions: int = 0
    seconds: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    checked: float | None = None
    check: str | None = None
    exact: float | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether the independent check found that it does not answer as the original does, in float32 either."""
        return self.is_below and not (self.exact or 0.0) >= LEAST_EXACT

    @property
    def is_below(self) -> bool:
        """Whether the check stayed below the limit in float16."""
        return self.checked is not None and not self.checked >= LEAST

    @classmethod
    def read(cls, values: dict[str, Any]) -> Record:
        """Makes a record of what `json.loads` gives."""
        return cls(**{**values, "attempts": [Attempt(**attempt) for attempt in values["attempts"]]})


class Records:
    """The last record of each case, kept in a file of JSON lines.

    Args:
        path: Created with the first record; a last line that a kill cut off is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_key: dict[str, Record] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = Record.read(json.loads(line))
                except json.JSONDecodeError:
                    continue
                self._by_key[record.key] = record

    def add(self, record: Record) -> None:
        """Appends a record, which replaces the case's earlier one."""
        self._by_key[record.key] = record
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def get(self, key: str) -> Record | None:
        """The last record of a case."""
        return self._by_key.get(key)

    def all(self) -> list[Record]:
        """The last record of every case, by group and name."""
        return sorted(self._by_key.values(), key=lambda record: (record.group, record.key))
