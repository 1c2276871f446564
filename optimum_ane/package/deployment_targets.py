"""Deployment targets: their names, their order, and the systems that they stand for."""

from __future__ import annotations

import coremltools as ct

from optimum_ane.errors import UnsupportedModelError


def canonical_target(name: str) -> str:
    """Looks a deployment target up in any case and returns coremltools' own spelling.

    Raises:
        UnsupportedModelError: It is not known, or older than ML Programs.
    """
    # `__members__` and not the members themselves: macOS13 is an alias of iOS16, and so on.
    known = {alias.lower(): alias for alias in ct.target.__members__}
    alias = known.get(name.lower())
    if alias is None or ct.target[alias] < ct.target.iOS15:
        usable = [alias for alias, target in ct.target.__members__.items() if target >= ct.target.iOS15]
        raise UnsupportedModelError(
            f"deployment target {name!r} is {'unknown' if alias is None else 'older than ML Programs'}; "
            f"choose one of {', '.join(usable)}"
        )
    return alias


TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
"""The targets that have ML Programs, oldest first; the other systems' names are aliases of these."""
