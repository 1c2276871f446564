"""Tags of words, and how those of a dataset map onto those of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error, listed, quoted
from optimum_ane.evaluation.labels import BY_ID, BY_NAME, LabelSpace
from optimum_ane.package.problem_types import SINGLE_LABEL

OUTSIDE = "O"

_ENTITY = re.compile(r"([BIESLUMW])-(.+)", re.DOTALL)
_NUMBERED = re.compile(r"LABEL_\d+")
_TO_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}
"""Of the schemes BILOU, BMES and BMEWO; seqeval reads IOB1, IOB2, IOE1, IOE2 and IOBES as they are."""


@dataclass(frozen=True)
class RawTags:
    """Tags as the dataset holds them, and where.

    Attributes:
        name: The dataset, for error messages.
        column: The tags' column.
        rows: Row number of each list.
        values: A list of tags for each row: int or str.
        class_names: Names of the integer classes, where the dataset declares them.
    """

    name: str
    column: str
    rows: Sequence[int]
    values: Sequence[Sequence[Any]]
    class_names: tuple[str, ...] | None = None

    def error(self, index: int, what: str, remedy: str) -> DatasetError:
        """The error for the list at `index`."""
        return dataset_error(self.name, what, remedy, row=self.rows[index], column=self.column)


@dataclass(frozen=True)
class Tags:
    """Tags in the checkpoint's own spelling.

    Attributes:
        gold: A list of tags for each row.
        names: The tag of each id of the checkpoint.
        mapping: How they were matched: "by name" or "by id".
    """

    gold: list[list[str]]
    names: tuple[str, ...]
    mapping: str


class TagSpace:
    """The tags of a checkpoint."""

    def __init__(self, id2label: Mapping[Any, str]) -> None:
        """Takes `config.id2label`.

        Raises:
            CheckpointError: The ids are not 0, 1, …
        """
        self.names = LabelSpace(id2label, SINGLE_LABEL).names
        self._by_name = {name.casefold(): name for name in reversed(self.names)}
        self._types = {kind.casefold(): kind for name in self.names for kind in [_type_of(name)] if kind is not None}

    def encode(self, raw: RawTags) -> Tags:
        """Maps a dataset's tags onto the checkpoint's.

        Names are compared without regard to case. A tag that the checkpoint lacks is let through if the checkpoint
        has its type of entity: of two schemes, one has `B-PER` and the other `I-PER` alone, and what is scored is
        entities. Numbers are the classes that the dataset names; without such names, or for a checkpoint whose own
        are `LABEL_0` and so on, they are the checkpoint's ids.

        Raises:
            DatasetError: A tag that the checkpoint does not know.
        """
        values = [self._as_ids(tags) for tags in raw.values]
        if any(isinstance(tag, str) for tags in values for tag in tags):
            return Tags(self._named(raw, values), self.names, BY_NAME)
        if raw.class_names is None:
            return Tags(self._numbered(raw, values, self.names, "the model's labels"), self.names, BY_ID)
        gold = self._numbered(raw, values, raw.class_names, "the dataset's classes")
        is_numbered = all(_NUMBERED.fullmatch(name) for name in self.names)
        if is_numbered and len(raw.class_names) == len(self.names):
            return Tags(gold, raw.class_names, BY_ID)
        return Tags(self._named(raw, gold), self.names, BY_NAME)

    def _as_ids(self, tags: Sequence[Any]) -> list[Any]:
        """Numbers in texts as numbers, unless they are names of the checkpoint."""
        is_ids = all(isinstance(tag, str) and tag.isascii() and tag.isdecimal() and len(tag) < 10 for tag in tags)
        if is_ids and not all(tag in self.names for tag in tags):
            return [int(tag) for tag in tags]
        return list(tags)

    def _numbered(
        self, raw: RawTags, values: Sequence[Sequence[Any]], names: Sequence[str], whose: str
    ) -> list[list[str]]:
        for index, tags in enumerate(values):
            for tag in tags:
                if not isinstance(tag, int) or isinstance(tag, bool) or not 0 <= tag < len(names):
                    remedy = "mend the row, or name another column with --label-column"
                    raise raw.error(index, f"{quoted(tag)} is none of {whose}, 0 to {len(names) - 1}", remedy)
        return [[names[tag] for tag in tags] for tags in values]

    def _named(self, raw: RawTags, values: Sequence[Sequence[Any]]) -> list[list[str]]:
        known: dict[str, str] = {}
        for index, tags in enumerate(values):
            for tag in tags:
                if isinstance(tag, str) and tag in known:
                    continue
                found = self._spelled(tag) if isinstance(tag, str) else None
                if found is None:
                    what = f"the model does not know the tag {quoted(tag)}; it knows {listed(self.names)}"
                    raise raw.error(index, what, "mend the row, or name another column with --label-column")
                known[tag] = found
        return [[known[tag] for tag in tags] for tags in values]

    def _spelled(self, tag: str) -> str | None:
        """The tag in the checkpoint's spelling; None if the checkpoint knows neither it nor its type."""
        name = self._by_name.get(tag.casefold())
        if name is not None:
            return name
        kind = _type_of(tag)
        if kind is not None and kind.casefold() in self._types:
            return f"{tag[0]}-{self._types[kind.casefold()]}"
        return OUTSIDE if tag.casefold() == OUTSIDE.casefold() and self._types else None


def names_entities(names: Iterable[str]) -> bool:
    """Whether tags mark entities, as `B-PER` does, rather than classes of words, as `NOUN` does."""
    return any(_type_of(name) is not None for name in names)


def as_iobes(tag: str) -> str:
    """A tag as seqeval reads it: prefixes of other schemes translated, and what marks no entity as `O`."""
    found = _ENTITY.fullmatch(tag)
    return OUTSIDE if found is None else f"{_TO_IOBES.get(found[1], found[1])}-{found[2]}"


def _type_of(tag: str) -> str | None:
    """`PER` of `B-PER`; None of `O` and of all else."""
    found = _ENTITY.fullmatch(tag)
    return None if found is None else found[2]
