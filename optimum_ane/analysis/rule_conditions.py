"""What a rule may ask of an operation: the words of the table's `when`, which values they take, and what they mean.

The vocabulary is fixed; `data/residency_rules.yaml` explains each word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optimum_ane.analysis.chips import Chip, get_chip
from optimum_ane.analysis.operations import Operation, Program, Tensor
from optimum_ane.errors import ANEError


@dataclass(frozen=True)
class Case:
    """What a rule is asked about.

    Attributes:
        operation: The operation.
        program: The program that it is in.
        chip: The chip; None where none was named.
        at_start: Whether nothing that the engine computes leads to the operation.
        in_state: Whether it writes into what was read from a state and goes back into one.
        most_updates: How often the program updates the state that it updates most.
    """

    operation: Operation
    program: Program
    chip: Chip | None
    at_start: bool
    in_state: bool
    most_updates: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The computed operands and the results: constants do not count."""
        return self.operation.operands + self.operation.outputs


@dataclass(frozen=True)
class Condition:
    """A word of the vocabulary: which values it takes, and what it means."""

    takes: Callable[[Any], bool]
    holds: Callable[[Any, Case], bool]


def is_words(value: Any) -> bool:
    """Tells whether a value is a list of words."""
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_true(value: Any) -> bool:
    return value is True


def _is_attribute(value: Any) -> bool:
    tests = ("in", "not_in", "above", "mixed")
    return isinstance(value, dict) and all(
        isinstance(test, dict) and test and all(word in tests for word in test) for test in value.values()
    )


def _is_generation(value: Any) -> bool:
    if value == "unknown":
        return True
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"before", "from"}:
        return False
    try:
        get_chip(*value.values())
    except ANEError:
        return False
    return True


def _longest(tensor: Tensor) -> int:
    return max((extent or 0 for extent in tensor.shape), default=0)


def _window(case: Case) -> int:
    """Returns the longest axis of a convolution's or pooling's window: a weight is [C_out, C_in, window…]."""
    sizes = case.operation.attributes.get("kernel_sizes", [])
    for weight in case.operation.inputs.get("weight", ()):
        sizes = [extent or 0 for extent in weight.shape[2:]]
    return max(_numbers(sizes), default=0)


def _matrices(case: Case) -> int:
    count = 1
    for extent in case.operation.outputs[0].shape[:-2] if case.operation.outputs else ():
        count *= 1 if extent is None else extent
    return count


def _batch(case: Case) -> int:
    shape = case.operation.outputs[0].shape if case.operation.outputs else ()
    return (shape[0] or 1) if shape else 1


def _numbers(value: Any) -> list[Any]:
    """Returns a value as a list; a scalar is a list of one."""
    return value if isinstance(value, list) else [value]


def _attribute(tests: Mapping[str, Mapping[str, Any]], case: Case) -> bool:
    """Tells whether attributes pass their tests; one that the program does not state passes none."""
    for name, test in tests.items():
        if name not in case.operation.attributes:
            return False
        items = _numbers(case.operation.attributes[name])
        for word, wanted in test.items():
            if not _TESTS[word](items, wanted):
                return False
    return True


_TESTS: Mapping[str, Callable[[list[Any], Any], bool]] = {
    "in": lambda items, wanted: any(item in wanted for item in items),
    "not_in": lambda items, wanted: any(item not in wanted for item in items),
    "above": lambda items, wanted: any(isinstance(item, int | float) and item > wanted for item in items),
    "mixed": lambda items, wanted: any(item != items[0] for item in items) is wanted,
}


def _bound(names: list[str], case: Case, is_constant: bool) -> bool:
    """Tells whether one of these parameters is constant, or computed."""
    tensors = (tensor for name in names for tensor in case.operation.inputs.get(name, ()))
    return any(tensor.is_constant is is_constant for tensor in tensors)


def _generation(wanted: Any, case: Case) -> bool:
    if wanted == "unknown":
        return case.chip is None
    if case.chip is None:
        return False
    ((word, name),) = wanted.items()
    other = get_chip(name).generation
    return case.chip.generation < other if word == "before" else case.chip.generation >= other


CONDITIONS: Mapping[str, Condition] = {
    "dtype": Condition(is_words, lambda names, case: any(t.dtype in names for t in case.tensors)),
    "rank_above": Condition(_is_number, lambda rank, case: any(len(t.shape) > rank for t in case.tensors)),
    "rank_below": Condition(
        _is_number, lambda rank, case: any(len(t.shape) < rank for t in case.operation.outputs[:1])
    ),
    "axis_above": Condition(_is_number, lambda length, case: any(_longest(t) > length for t in case.tensors)),
    "kernel_above": Condition(_is_number, lambda length, case: _window(case) > length),
    "matrices_above": Condition(_is_number, lambda count, case: _matrices(case) > count),
    "batch_above": Condition(_is_number, lambda count, case: _batch(case) > count),
    "unknown_shape": Condition(_is_true, lambda _, case: any(None in t.shape for t in case.tensors)),
    "flexible": Condition(
        lambda kind: kind in ("range", "enumerated"), lambda kind, case: case.program.flexibility == kind
    ),
    "attribute": Condition(_is_attribute, _attribute),
    "computed": Condition(is_words, lambda names, case: _bound(names, case, is_constant=False)),
    "constant": Condition(is_words, lambda names, case: _bound(names, case, is_constant=True)),
    "generation": Condition(_is_generation, _generation),
    "at_start": Condition(_is_true, lambda _, case: case.at_start),
    "nested": Condition(_is_true, lambda _, case: case.operation.depth > 0),
    "in_state": Condition(_is_true, lambda _, case: case.in_state),
    "states_above": Condition(_is_number, lambda count, case: len(case.program.states) > count),
    "updated_again": Condition(_is_true, lambda _, case: case.most_updates > 1),
}
"""By the word in the table."""
