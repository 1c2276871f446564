"""Chips with a Neural Engine, what is publicly known of each, and what stands in for what is not.

The table is `data/chips.yaml`, which explains itself.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from optimum_ane.errors import InputError

Trust = Literal["apple", "measured", "reverse-engineered", "uncertain"]

SHARE_OF_DRAM = ("M1", "bandwidth_gbs", "dram_gbs")
"""Whose share of its memory's bandwidth the engine of a phone is taken to reach: of all chips on which it was
measured, only M1's memory is not several times as fast as its engine can read."""

_DATA = ("apple_tops", "fp16_tflops", "bandwidth_gbs", "dram_gbs", "dispatch_ms", "working_set_mb")
_FIELDS = {"generation", "devices", "cores", "counted", "like", *_DATA}


class ChipError(ValueError):
    """A row of the table that cannot be right; the message names the chip and what is wrong with it."""


@dataclass(frozen=True)
class Datum:
    """One number.

    Attributes:
        value: In the unit that the field's name states.
        source: Who says so.
        trust: What kind of source that is.
    """

    value: float
    source: str
    trust: Trust


@dataclass(frozen=True)
class Chip:
    """What is publicly known of a chip; None where nothing is.

    Attributes:
        name: Apple's, without the vendor: `"A17 Pro"`.
        generation: The engine's compiler family, `"h13"` (A14, M1) to `"h18"`; later ones compare greater.
        devices: What it is built into, phones and tablets whole, Macs by family and chip.
        cores: Of its Neural Engine or Engines.
        counted: What Apple's operations per second are of, `"fp16"` or `"int8"`.
        apple_tops: Apple's number of operations per second, 10^12.
        fp16_tflops: The fp16 peak of one engine, 10^12 operations per second.
        bandwidth_gbs: What the engine draws from memory, 10^9 bytes per second.
        dram_gbs: The memory's own bandwidth, 10^9 bytes per second.
        dispatch_ms: From submitting a loaded program to its first operation, milliseconds.
        working_set_mb: The buffer on the engine, 10^6 bytes.
        like: The chip whose data stand in for what is None here.
    """

    name: str
    generation: str
    devices: tuple[str, ...]
    cores: int
    counted: str | None
    apple_tops: Datum | None
    fp16_tflops: Datum | None
    bandwidth_gbs: Datum | None
    dram_gbs: Datum | None
    dispatch_ms: Datum | None
    working_set_mb: Datum | None
    like: str | None


@dataclass(frozen=True)
class Engine:
    """The numbers that an estimate uses of a chip.

    Attributes:
        chip: The chip.
        tflops: fp16 peak, 10^12 operations per second.
        bandwidth_gbs: What the engine draws from memory, 10^9 bytes per second.
        dispatch_ms: What a prediction costs before its first operation, milliseconds.
        assumptions: For each number that is not known of this very chip, what stands in for it.
    """

    chip: Chip
    tflops: float
    bandwidth_gbs: float
    dispatch_ms: float
    assumptions: tuple[str, ...]


def chip_names() -> tuple[str, ...]:
    """Returns the names of all chips, phones first, from the oldest on."""
    return tuple(_table())


def get_chip(name: str) -> Chip:
    """Looks a chip up by its name or by a device that it is built into; case and spaces do not matter.

    Args:
        name: `"A15"`, `"m2 ultra"`, `"iPhone 13"`.

    Returns:
        The chip.

    Raises:
        InputError: No chip has this name; the message holds those that are near.
    """
    known = {_key(chip.name): chip for chip in _table().values()}
    devices = {_key(device): chip for chip in _table().values() for device in chip.devices}
    found = known.get(_key(name)) or devices.get(_key(name))
    if found is not None:
        return found
    written = {_key(each): each for chip in _table().values() for each in (chip.name, *chip.devices)}
    longer = [key for key in written if key.startswith(_key(name)) and key]
    near = [written[key] for key in longer or difflib.get_close_matches(_key(name), written, n=3, cutoff=0.6)][:3]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise InputError(f"no chip is known as {name!r}{hint} Known are {', '.join(chip_names())}, and devices by name")


def assume(chip: Chip) -> Engine:
    """Fills in what is not known of a chip, and says from where.

    What is missing comes from the chip that this one is said to be like, and so on; but the bandwidth of a chip
    whose memory's is known from that, by M1's share of its own.

    Args:
        chip: From `get_chip`.

    Returns:
        Its engine, whole.
    """
    assumptions: list[str] = []

    def known(field: str, what: str) -> float:
        found, stand_in = _inherited(chip, field)
        if stand_in is not chip:
            assumptions.append(f"{what}: {found.value:g}, as of {stand_in.name}; unknown for {chip.name}")
        return found.value

    tflops = known("fp16_tflops", "fp16 peak in TFLOP/s")
    if chip.bandwidth_gbs is None and chip.dram_gbs is not None and chip.name.startswith("A"):
        share = _m1_share()
        bandwidth = share * chip.dram_gbs.value
        assumptions.append(
            f"engine's bandwidth in GB/s: {bandwidth:.1f}, {share:.0%} of its memory's {chip.dram_gbs.value:g}, as on "
            f"M1; unknown for {chip.name}"
        )
    else:
        bandwidth = known("bandwidth_gbs", "engine's bandwidth in GB/s")
    return Engine(chip, tflops, bandwidth, known("dispatch_ms", "dispatch in ms"), tuple(assumptions))


def _m1_share() -> float:
    name, engine, memory = SHARE_OF_DRAM
    chip = _table()[name]
    return float(getattr(chip, engine).value / getattr(chip, memory).value)


def _inherited(chip: Chip, field: str) -> tuple[Datum, Chip]:
    """Finds a number of a chip or of what it is like; `_check` has made sure that there is one."""
    while True:
        datum: Datum | None = getattr(chip, field)
        if datum is not None:
            return datum, chip
        chip = _table()[str(chip.like)]


def _key(name: str) -> str:
    return "".join(name.lower().split())


@functools.cache
def _table() -> Mapping[str, Chip]:
    text = files("optimum_ane.analysis").joinpath("data/chips.yaml").read_text(encoding="utf-8")
    return read_chips(text)


def read_chips(text: str) -> Mapping[str, Chip]:
    """Reads a table of chips.

    Args:
        text: YAML of the form that `data/chips.yaml` explains.

    Returns:
        The chips by name, in the table's order.

    Raises:
        ChipError: A row is incomplete, holds what is not known, or leads to no number.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or set(document) != {"sources", "chips"}:
        raise ChipError("a table of chips holds sources and chips, and nothing else")
    sources = document["sources"]
    chips = {name: _chip(name, row, sources) for name, row in document["chips"].items()}
    _check(chips)
    return chips


def _chip(name: str, row: Any, sources: Mapping[str, str]) -> Chip:
    if not isinstance(row, dict) or set(row) != _FIELDS:
        odd = sorted(set(row) ^ _FIELDS) if isinstance(row, dict) else [str(row)]
        raise ChipError(f"{name}: missing or unknown: {', '.join(odd)}")
    if row["counted"] not in ("fp16", "int8", None) or (row["counted"] is None) != (row["apple_tops"] is None):
        raise ChipError(f"{name}: counted says what apple_tops counts, fp16 or int8, and is null where that is")
    if not isinstance(row["cores"], int) or not str(row["generation"])[1:].isdigit() or not row["devices"]:
        raise ChipError(f"{name}: cores is a number, generation is h and a number, devices are at least one")
    data = {field: _datum(f"{name}: {field}", row[field], sources) for field in _DATA}
    return Chip(
        name=name,
        generation=row["generation"],
        devices=tuple(row["devices"]),
        cores=row["cores"],
        counted=row["counted"],
        like=row["like"],
        **data,
    )


def _datum(place: str, entry: Any, sources: Mapping[str, str]) -> Datum | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or set(entry) != {"value", "source", "trust"}:
        raise ChipError(f"{place}: a datum is null or holds value, source and trust")
    if isinstance(entry["value"], bool) or not isinstance(entry["value"], int | float) or not entry["value"] > 0:
        raise ChipError(f"{place}: {entry['value']!r} is not a number above 0")
    if entry["source"] not in sources or entry["trust"] not in get_args(Trust):
        raise ChipError(f"{place}: source {entry['source']!r} or trust {entry['trust']!r} is not known")
    return Datum(float(entry["value"]), str(sources[entry["source"]]), entry["trust"])


def _check(chips: Mapping[str, Chip]) -> None:
    """Makes sure that what an estimate needs is found for every chip, and that names are unique."""
    names = [_key(each) for chip in chips.values() for each in (chip.name, *chip.devices)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ChipError(f"two chips go by {', '.join(doubled)}")
    for name, chip in chips.items():
        for field in ("fp16_tflops", "bandwidth_gbs", "dispatch_ms"):
            seen: list[str] = []
            row: Chip | None = chip
            while row is not None and getattr(row, field) is None:
                if row.name in seen:
                    raise ChipError(f"{name}: {' is like '.join([*seen, row.name])}")
                seen.append(row.name)
                if row.like is not None and row.like not in chips:
                    raise ChipError(f"{row.name}: there is no chip {row.like!r} to be like")
                row = None if row.like is None else chips[row.like]
            if row is None:
                raise ChipError(f"{name}: {field} is null, and so it is for what it is like")
