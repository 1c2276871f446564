"""Devices: their chip, their memory, and what one app may take of it. The table is `data/devices.yaml`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_args

import yaml

from optimum_ane.analysis.chips import Chip, ChipError, Datum, Trust, chip_names, get_chip
from optimum_ane.errors import ANEError, InputError

GIB = 2**30
_NEAR = 3


@dataclass(frozen=True)
class AppLimit:
    """What one app may take on a kind of device.

    Attributes:
        app: Without an entitlement, 10^9 bytes.
        entitled: With `com.apple.developer.kernel.increased-memory-limit`, 10^9 bytes.
        read_on: The device that both were read on; None where they are inferred.
    """

    app: Datum
    entitled: Datum
    read_on: str | None


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: `"iPhone 15 Pro"`.
        chip: Its chip.
        memory: GiB; of a device that is sold with several, the least.
        limit: What one app may take; None where there is no limit but the memory, as on a Mac.
    """

    name: str
    chip: Chip
    memory: Datum
    limit: AppLimit | None

    @property
    def app_bytes(self) -> float:
        """What an app may take without an entitlement, bytes."""
        return self.memory.value * GIB if self.limit is None else self.limit.app.value * 1e9

    @property
    def entitled_bytes(self) -> float:
        """What an app may take with the entitlement, bytes."""
        return self.memory.value * GIB if self.limit is None else self.limit.entitled.value * 1e9


def device_names() -> tuple[str, ...]:
    """Returns the names of all devices, phones first, from the oldest on."""
    return tuple(device.name for device in _table().values())


def get_device(name: str) -> Device:
    """Looks a device up by its name; case and spaces do not matter.

    Args:
        name: `"iPhone 15 Pro"`, `"macbook air m2"`.

    Raises:
        InputError: No device has this name; the message holds those that are near, or those with the chip of this
            name.
    """
    devices = _table()
    found = devices.get(_key(name))
    if found is not None:
        return found
    for chip in chip_names():
        if _key(chip) == _key(name):
            own = [device.name for device in devices.values() if device.chip.name == chip]
            raise InputError(f"{name!r} is a chip, and a plan is for a device with its memory: {_listed(own)}")
    longer = [key for key in devices if _key(name) and key.startswith(_key(name))]
    close = longer or difflib.get_close_matches(_key(name), devices, n=_NEAR, cutoff=0.6)
    near = " or ".join(devices[key].name for key in close[:_NEAR])
    raise InputError(
        f"no device is known as {name!r}{f'; did you mean {near}?' if near else '.'} Known are "
        f"{', '.join(device.name for device in devices.values() if device.limit is not None)}, and Macs by family and "
        "chip (MacBook Air M2)"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none with it is known"


def _key(name: str) -> str:
    return "".join(name.lower().split())


@functools.cache
def _table() -> Mapping[str, Device]:
    text = files("optimum_ane.analysis").joinpath("data/devices.yaml").read_text(encoding="utf-8")
    return {_key(device.name): device for device in read_devices(text)}


def read_devices(text: str) -> tuple[Device, ...]:
    """Reads a table of devices.

    Args:
        text: YAML of the form that `data/devices.yaml` explains.

    Raises:
        ChipError: A row is incomplete, or names a chip, limit or source that there is not.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or set(document) != {"sources", "limits", "devices"}:
        raise ChipError("a table of devices holds sources, limits and devices, and nothing else")
    sources = document["sources"]
    limits = {name: _limit(name, row, sources) for name, row in document["limits"].items()}
    devices = []
    for chip, rows in document["devices"].items():
        for name, row in rows.items():
            devices.append(_device(name, chip, row, limits, sources))
    names = [_key(device.name) for device in devices]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ChipError(f"two devices go by {', '.join(doubled)}")
    return tuple(devices)


def _limit(name: str, row: Any, sources: Mapping[str, str]) -> AppLimit:
    _check_fields(name, row, {"read_on", "app", "entitled"})
    app, entitled = (_datum(f"{name}: {key}", row[key], "value", sources) for key in ("app", "entitled"))
    if entitled.value < app.value:
        raise ChipError(f"{name}: the entitlement takes memory away, {app.value:g} to {entitled.value:g}")
    return AppLimit(app, entitled, row["read_on"])


def _device(name: str, chip: str, row: Any, limits: Mapping[str, AppLimit], sources: Mapping[str, str]) -> Device:
    _check_fields(name, row, {"memory_gib", "source", "trust", "limit"})
    memory = _datum(name, {key: row[key] for key in ("memory_gib", "source", "trust")}, "memory_gib", sources)
    if row["limit"] is not None and row["limit"] not in limits:
        raise ChipError(f"{name}: there is no limit {row['limit']!r}")
    try:
        return Device(name, get_chip(chip), memory, None if row["limit"] is None else limits[row["limit"]])
    except ANEError as error:
        raise ChipError(f"{name}: {error}") from error


def _datum(place: str, entry: Any, value: str, sources: Mapping[str, str]) -> Datum:
    _check_fields(place, entry, {value, "source", "trust"})
    number = entry[value]
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        raise ChipError(f"{place}: {number!r} is not a number above 0")
    if entry["source"] not in sources or entry["trust"] not in get_args(Trust):
        raise ChipError(f"{place}: source {entry['source']!r} or trust {entry['trust']!r} is not known")
    return Datum(float(number), str(sources[entry["source"]]), entry["trust"])


def _check_fields(place: str, row: Any, fields: set[str]) -> None:
    if not isinstance(row, dict) or set(row) != fields:
        odd = sorted(set(row) ^ fields) if isinstance(row, dict) else [str(row)]
        raise ChipError(f"{place}: missing or unknown: {', '.join(odd)}")
