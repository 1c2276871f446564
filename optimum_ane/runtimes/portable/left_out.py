"""The operations of coremltools' core registry that this runtime does not have, and why.

A program that uses one of them is refused when it is loaded. Every other operation of the registry is implemented: a
test holds the registry against this table.
"""

from __future__ import annotations

_RECURRENT = "recurrent cells are out of this runtime's scope"
_RANDOM = "what it returns differs from run to run, so that there is no right answer to check"
_LISTS = "lists of tensors, which only converted loops use, are out of this runtime's scope"

LEFT_OUT: dict[str, str] = {
    "gru": _RECURRENT,
    "lstm": _RECURRENT,
    "rnn": _RECURRENT,
    "random_bernoulli": _RANDOM,
    "random_categorical": _RANDOM,
    "random_normal": _RANDOM,
    "random_uniform": _RANDOM,
    "list_gather": _LISTS,
    "list_length": _LISTS,
    "list_read": _LISTS,
    "list_scatter": _LISTS,
    "list_write": _LISTS,
    "make_list": _LISTS,
    "non_maximum_suppression": "the selection of boxes of detectors is out of this runtime's scope",
    "_const_symbolic": "it stands for a shape during conversion and is never written to a package",
}
