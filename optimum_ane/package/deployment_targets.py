"""Deployment targets: their names, their order, and the systems that they stand for."""

from __future__ import annotations

from optimum_ane.errors import UnsupportedModelError

TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
"""The targets that have ML Programs, oldest first; the other systems' names are aliases of these."""

_NAMES: dict[str, tuple[str, ...]] = {
    "iOS15": ("iOS15", "macOS12", "watchOS8", "tvOS15"),
    "iOS16": ("iOS16", "macOS13", "watchOS9", "tvOS16"),
    "iOS17": ("iOS17", "macOS14", "watchOS10", "tvOS17"),
    "iOS18": ("iOS18", "macOS15", "watchOS11", "tvOS18"),
    "iOS26": ("iOS26", "macOS26", "watchOS26", "tvOS26"),
}
"""Each row is one version of Core ML under coremltools' names for it."""

_SYSTEMS = {
    "iOS15": "iOS 15 and macOS 12",
    "iOS16": "iOS 16 and macOS 13",
    "iOS17": "iOS 17 and macOS 14",
    "iOS18": "iOS 18 and macOS 15",
    "iOS26": "iOS 26 and macOS 26",
}
_TARGET_OF = {name: target for target, names in _NAMES.items() for name in names}
_SPELLING = {name.lower(): name for name in _TARGET_OF}
_OLDER = ("ios13", "ios14", "macos10_15", "macos10_16", "macos11", "watchos6", "watchos7", "tvos13", "tvos14")


def canonical_target(name: str) -> str:
    """Looks a deployment target up in any case and returns coremltools' own spelling.

    Raises:
        UnsupportedModelError: It is not known, or older than ML Programs.
    """
    # coremltools' own `ct.target.iOS17` has its name as an attribute.
    name = str(getattr(name, "name", name))
    found = _SPELLING.get(name.lower())
    if found is None:
        reason = "older than ML Programs" if name.lower() in _OLDER else "unknown"
        raise UnsupportedModelError(f"deployment target {name!r} is {reason}; choose one of {', '.join(_TARGET_OF)}")
    return found


def ios_target(name: str) -> str:
    """The iOS target of any of coremltools' names: `"macOS15"` is `"iOS18"`.

    Raises:
        UnsupportedModelError: It is not known.
    """
    return _TARGET_OF[canonical_target(name)]


def is_older(name: str, other: str) -> bool:
    """Whether one target is older than another, whatever the systems that they are named by."""
    return TARGETS.index(ios_target(name)) < TARGETS.index(ios_target(other))


def systems_of(name: str) -> str:
    """The oldest systems that run a package for a target, for a reader: `"iOS 16 and macOS 13"`."""
    target = _TARGET_OF.get(name)
    return name if target is None else _SYSTEMS[target]
