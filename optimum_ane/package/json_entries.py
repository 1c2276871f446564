"""Dataclasses from JSON that anyone may have written: every type is checked, every name accounted for."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from optimum_ane.errors import ANEError, PackageError

_T = TypeVar("_T")
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,100}")
_KINDS: dict[Any, str] = {str: "text", int: "a whole number", bool: "true or false", float: "a number"}

WORD: Mapping[str, Any] = {"check": (lambda value: _WORD.fullmatch(value) is not None, "a name")}
"""Metadata of a field that holds a name of a format, a tensor or a tool, never free text."""
COUNT: Mapping[str, Any] = {"check": (lambda value: 0 <= value < 1 << 31, "a count")}
"""Metadata of a field that holds a whole number of 0 or more."""


def read_entries(cls: type[_T], entries: Any, where: str, *, tolerant: bool = False) -> _T:
    """Makes a dataclass of a JSON object.

    Args:
        cls: A dataclass of texts, numbers, truth values, optional ones, tuples and mappings of them, and dataclasses.
            A field's metadata may hold a `check`.
        entries: What `json.loads` gave.
        where: The place, for messages.
        tolerant: Whether names that the dataclass does not have are passed over: a later version wrote them.

    Raises:
        PackageError: A value has another type, a name is missing or unknown; the message names the entry.
    """
    if not isinstance(entries, dict):
        raise PackageError(f"{where} should be an object, it is {entries!r:.60}")
    hints = get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(entries.keys() - known.keys())
    if unknown and not tolerant:
        raise PackageError(f"{where} has unknown entries: {unknown!r:.200}")
    values = {}
    for name, entry in known.items():
        if name not in entries:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise PackageError(f"{where} lacks the entry {name!r}")
            continue
        values[name] = _value(hints[name], entries[name], f"{where}: {name}", tolerant, entry.metadata.get("check"))
    try:
        return cls(**values)
    except ANEError as error:
        raise PackageError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str, tolerant: bool, check: tuple[Callable[[Any], bool], str] | None) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
        return _value(hint, value, where, tolerant, check)
    if origin is Literal:
        if value not in get_args(hint):
            raise PackageError(f"{where} is {value!r:.100}, not one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise PackageError(f"{where} is {value!r:.100}, not a list")
        return tuple(
            _value(get_args(hint)[0], item, f"{where}[{index}]", tolerant, check) for index, item in enumerate(value)
        )
    if origin is not None:  # a mapping
        if not isinstance(value, dict):
            raise PackageError(f"{where} is {value!r:.100}, not an object")
        return {
            key: _value(get_args(hint)[1], item, f"{where}: {key!r:.100}", tolerant, None)
            for key, item in value.items()
        }
    if isinstance(hint, type) and is_dataclass(hint):
        return read_entries(hint, value, where, tolerant=tolerant)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1 << 53 else _refuse(where, value, _KINDS[float])
    if hint is not Any and (not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))):
        _refuse(where, value, _KINDS[hint])
    if check is not None and not check[0](value):
        _refuse(where, value, check[1])
    return value


def _refuse(where: str, value: Any, expected: str) -> Any:
    raise PackageError(f"{where} is {value!r:.100}, not {expected}")
