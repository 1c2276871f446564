"""The operations of coremltools' core registry that this runtime does not have, and why.

A program that uses one of them is refused when it is loaded. Every other operation of the registry is implemented: a
test holds the registry against this table.
"""

from __future__ import annotations

_RANDOM = "what it returns differs from run to run, so that there is no right answer to check"

LEFT_OUT: dict[str, str] = {
    "random_bernoulli": _RANDOM,
    "random_categorical": _RANDOM,
    "random_normal": _RANDOM,
    "random_uniform": _RANDOM,
    "_const_symbolic": "it stands for a shape during conversion and is never written to a package",
}
