"""Does a program answer as another does? Both are run on the same inputs, step by step where they keep states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimum_ane.errors import ExecutionError, InputError, UnsupportedModelError, ValidationError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.graph import Graph
from optimum_ane.validation.psnr import psnr
from optimum_ane.validation.seeded_inputs import integer_ranges, seeded_inputs

EXAMPLES = 3
"""How many different inputs a program is asked."""

Answer = Mapping[str, Any]
"""What a program gave, by the names of its outputs; its states follow, each after the last input."""


@dataclass(frozen=True)
class Examples:
    """Inputs, and what a program answers to them.

    Attributes:
        inputs: One mapping for each example.
        answers: One for each of them, and for a program with states one more: the states that are left.
    """

    inputs: Sequence[Mapping[str, Any]]
    answers: Sequence[Answer]


@dataclass
class ProgramComparison:
    """How closely one program follows another.

    Attributes:
        psnr: dB by output and state, over all examples; `inf` for equal ones.
        differing: How many of how many values differ, by output, for integers and labels that are not all equal.
    """

    psnr: dict[str, float] = field(default_factory=dict)
    differing: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The lowest PSNR."""
        return min(self.psnr.values(), default=math.inf)


def make_examples(session: PortableSession, graph: Graph, given: Sequence[Mapping[str, Any]] = ()) -> Examples:
    """Finds inputs that a program answers with finite numbers, and its answers.

    Args:
        session: The program.
        graph: Its function, from which the ranges of its integers are read.
        given: Inputs of somebody's own, which come first and must be answered.

    Raises:
        UnsupportedModelError: It answers none of those that can be made up with numbers.
        InputError: Inputs that were given do not fit.
    """
    ranges = integer_ranges(graph)
    reason = ""
    for cautious in (False, True):
        inputs = [*given, *(seeded_inputs(session.inputs, ranges, n, cautious=cautious) for n in range(EXAMPLES))]
        try:
            answers = answer(session, inputs)
        except (ExecutionError, InputError) as error:
            reason = str(error)
            continue
        infinite = next((name for each in answers for name, value in each.items() if not _is_finite(value)), None)
        if infinite is None:
            return Examples(inputs, answers)
        reason = f"{infinite} holds NaN or infinity"
    raise UnsupportedModelError(
        f"{session.path} does not answer inputs of its declared types that are made up ({reason}), so nothing proves "
        "that another program answers alike; give some of your own with --inputs"
    )


def answer(session: PortableSession, inputs: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Asks a program, one input after another over the same state where it has one."""
    state = session.make_state() if session.states else None
    answers: list[Answer] = [session.predict(each, state) for each in inputs]
    if state is not None:
        answers.append({name: state.read(name) for name in state.names})
    return answers


def compare_programs(examples: Examples, candidate: PortableSession) -> ProgramComparison:
    """Compares a program with the one that answered the examples.

    Args:
        examples: From `make_examples`.
        candidate: The program.

    Raises:
        ValidationError: It fails where the other answered, or gives something of another name or kind.
    """
    try:
        answers = answer(candidate, examples.inputs)
    except (ExecutionError, InputError) as error:
        raise ValidationError(f"the rewritten program fails where the input package answers: {error}") from error
    numbers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    comparison = ProgramComparison()
    for expected, actual in zip(examples.answers, answers, strict=True):
        if [*expected] != [*actual]:
            raise ValidationError(
                f"the rewritten program gives {', '.join(actual)}, and the input package {', '.join(expected)}"
            )
        for name, theirs in expected.items():
            first, second = _array(theirs), _array(actual[name])
            if first.shape != second.shape:
                raise ValidationError(f"{name} has shape {second.shape}, that of the input package {first.shape}")
            if first.dtype.kind == "f":
                numbers.setdefault(name, []).append((first.reshape(-1), second.reshape(-1)))
            elif not np.array_equal(first, second):
                wrong, of = comparison.differing.get(name, (0, 0))
                comparison.differing[name] = wrong + int(np.sum(first != second)), of + first.size
    for name, pairs in numbers.items():
        comparison.psnr[name] = psnr(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return comparison


def check_comparison(comparison: ProgramComparison, threshold: float, what: str, advice: str = "") -> None:
    """Refuses a program that does not answer as the one before.

    Args:
        comparison: From `compare_programs`.
        threshold: dB that each output must reach.
        what: Which program.
        advice: A sentence: why that may be, and what can be done.

    Raises:
        ValidationError: An output is further off, or an integer or label is another.
    """
    end = f"; nothing was written. {advice}".strip()
    for name, (wrong, of) in comparison.differing.items():
        raise ValidationError(
            f"the {what} does not answer as the input package does: {wrong} of {of} values of {name} are others{end}"
        )
    for name, ratio in comparison.psnr.items():
        if not ratio >= threshold:
            raise ValidationError(
                f"the {what} does not answer as the input package does: PSNR of {name} is {ratio:.1f} dB, "
                f"{threshold:.1f} are asked for{end}"
            )


def _array(value: Any) -> np.ndarray:
    """An answer as an array: probabilities by label in the order of the labels, a picture as its pixels."""
    if isinstance(value, dict):
        return np.array([value[label] for label in sorted(value, key=str)], np.float64)
    array = np.asarray(value)
    # Pixels are rounded numbers: one step of 255 is no other answer.
    return array.astype(np.float32) if hasattr(value, "getbands") else array


def _is_finite(value: Any) -> bool:
    array = _array(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
