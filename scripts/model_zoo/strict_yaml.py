"""YAML that forgives nothing: each complaint names the file, the line and what is allowed there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from optimum_ane.errors import ANEError

_MAX_BYTES = 2**20
_MAX_DEPTH = 10


class ListError(ANEError, ValueError):
    """A list of models that cannot be used; the message names file, line, entry and the allowed values."""


class Section:
    """A mapping of a file, whose values are taken one by one with the type that they must have.

    Args:
        name: What errors call it.
        path: The file.
        line: Where it begins, from 1.
        values: As the file says.
        lines: The line of each key.
    """

    def __init__(self, name: str, path: Path, line: int, values: dict[str, Any], lines: dict[str, int]) -> None:
        self.name, self.path, self.line = name, path, line
        self._values, self._lines = values, lines

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, what: str, key: str | None = None) -> ListError:
        """An error about the section, or about the value of a key; the caller raises it."""
        line = self.line if key is None else self._lines.get(key, self.line)
        place = self.name if key is None else f"{self.name}, {key}" if self.name else key
        return ListError(f"{self.path}, line {line}: {place}{': ' if place else ''}{what}")

    def with_defaults(self, defaults: Section) -> Section:
        """The same section, with another's values where it has none."""
        return Section(self.name, self.path, self.line, defaults._values | self._values, defaults._lines | self._lines)

    def only(self, keys: Collection[str]) -> None:
        """Refuses keys other than these.

        Raises:
            ListError: Names the first, what was meant perhaps, and all that are allowed.
        """
        for key in self._values:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, 1)
                meant = f"; did you mean {near[0]}?" if near else "."
                raise self.error(f"unknown key {key!r}{meant} Allowed: {', '.join(sorted(keys))}", key)

    def text(self, key: str, allowed: Collection[str] | None = None) -> str:
        """A text that must be there, one of `allowed` if that is given."""
        value = self.optional_text(key, allowed)
        if value is None:
            choice = f": one of {', '.join(allowed)}" if allowed else ""
            raise self.error(f"{key!r} is missing{choice}")
        return value

    def optional_text(self, key: str, allowed: Collection[str] | None = None) -> str | None:
        """A text, or None where the key is absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.error(f"{value!r} is {_kind(value)}; a text is expected{_quote_it(value)}", key)
        if allowed is not None and value not in allowed:
            raise self.error(f"{value!r} is not one of {', '.join(allowed)}", key)
        return value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number."""
        return default if self._values.get(key) is None else self._checked_whole(self._values[key], key, least)

    def number(self, key: str, least: float = 0.0) -> float | None:
        """A number, or None where the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise self.error(f"{value!r} is not a number from {least:g} on", key)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{value!r} is {_kind(value)}; true or false is expected", key)
        return value

    def wholes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """One or more different whole numbers."""
        values = self._several(key, list(default))
        return tuple(self._checked_whole(value, key, 1) for value in values)

    def extents(self, key: str) -> tuple[int, ...]:
        """One whole number or a list of them, which may be equal."""
        value = self._values[key]
        values = value if isinstance(value, list) else [value]
        return tuple(self._checked_whole(each, key, 1) for each in values)

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """One or more different texts."""
        values = self._several(key, list(default))
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self.error(f"{value!r} is {_kind(value)}; a list of texts is expected{_quote_it(value)}", key)
        return tuple(values)

    def section(self, key: str) -> Section | None:
        """A mapping within, or None where the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Section):
            raise self.error(f"{value!r} is {_kind(value)}; a mapping is expected", key)
        value.name = f"{self.name}, {key}" if self.name else key
        return value

    def sections(self, key: str) -> Iterator[Section]:
        """The mappings of a list that must be there."""
        values = self._values.get(key)
        if not isinstance(values, list) or not values:
            raise self.error(f"{key!r} must be a list with one mapping or more", key if key in self else None)
        for number, value in enumerate(values, 1):
            if not isinstance(value, Section):
                raise self.error(f"entry {number} is {_kind(value)}; a mapping is expected", key)
            value.name = f"{key}, entry {number}"
            yield value

    def _several(self, key: str, default: list[Any]) -> list[Any]:
        values = self._values.get(key, default)
        if not isinstance(values, list) or not values:
            raise self.error(f"{values!r} is {_kind(values)}; a list with one value or more is expected", key)
        for position, value in enumerate(values):
            if value in values[:position]:
                raise self.error(f"{value!r} is there twice", key)
        return values

    def _checked_whole(self, value: Any, key: str, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(f"{value!r} is not a whole number from {least} on", key)
        return value

    def __repr__(self) -> str:
        return "a mapping"


def read_yaml(path: Path) -> Section:
    """Reads a file whose root is a mapping.

    Raises:
        ListError: It cannot be read, is no YAML, is too large or nested too deep, or has a key twice.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ListError(f"{path} is larger than {_MAX_BYTES:,} bytes; it is no list of models")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ListError(
            f"{path} cannot be read: {error.strerror}; name a list of models, scripts/zoo.yaml say"
        ) from error
    except UnicodeDecodeError as error:
        raise ListError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ListError(f"{path} must hold a mapping with the key 'models'; see scripts/zoo.yaml")
        return _convert(node, loader, path, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ListError(f"{path}{place}: no valid YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise ListError(f"{path}: nested too deep; a list has few levels") from error
    finally:
        loader.dispose()


def _convert(node: yaml.Node, loader: yaml.SafeLoader, path: Path, depth: int) -> Any:
    line = node.start_mark.line + 1
    if depth > _MAX_DEPTH:
        raise ListError(f"{path}, line {line}: nested too deep; a list has few levels")
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, loader, path, depth + 1) for child in node.value]
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except (ValueError, AttributeError) as error:  # PyYAML trips over what a tag promises and a value breaks
            raise ListError(f"{path}, line {line}: {node.value!r} is no value ({error})") from error
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, key_line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ListError(f"{path}, line {key_line}: a key must be a word")
        if key in values:
            raise ListError(f"{path}, line {key_line}: the key {key!r} is there twice, first in line {lines[key]}")
        values[key], lines[key] = _convert(value_node, loader, path, depth + 1), key_line
    return Section("", path, line, values, lines)


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        Section: "a mapping",
    }
    return "empty" if value is None or value == [] or value == "" else kinds.get(type(value), type(value).__name__)


def _quote_it(value: Any) -> str:
    return ", so write it in quotes" if isinstance(value, bool | int | float) else ""
