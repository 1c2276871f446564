"""Which format each weight takes: the trade of bytes for harm, weight by weight. Numbers in, numbers out.

Harms of single weights are added up. To first order that is so: each error is small, and errors of different weights
are not correlated. Then the best choice under any budget lies on the lower convex hull of each weight's formats in the
plane of bytes and harm, and taking the steps of all hulls by falling gain for each byte gives all choices that are
best for some price of a byte (Lagrangian allocation; Shoham and Gersho, "Efficient bit allocation for an arbitrary set
of quantizers", IEEE Trans. ASSP 36(9), 1988).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """One format that a weight may take.

    Attributes:
        format: Its name.
        size: Bytes that the weight takes in it.
        harm: What it does to the answers; 0 is none.
    """

    format: str
    size: int
    harm: float


Options = Mapping[str, tuple[Option, ...]]
"""The formats of each weight, the weight as it is among them."""


@dataclass(frozen=True)
class Choice:
    """A format for every weight.

    Attributes:
        formats: The name of the format, by weight.
        size: Bytes of all weights together.
        harm: Of all weights together.
    """

    formats: Mapping[str, str]
    size: int
    harm: float


def hull(options: tuple[Option, ...]) -> list[Option]:
    """Returns the formats that are best at some price of a byte, smallest first.

    Args:
        options: The formats of one weight, one at least.

    Returns:
        The lower convex hull in the plane of size and harm, cut where more bytes stop lowering the harm.
    """
    best: list[Option] = []
    for option in sorted(options, key=lambda o: (o.size, o.harm)):
        if best and option.harm >= best[-1].harm:
            continue
        while len(best) > 1 and _gain(best[-2], best[-1]) <= _gain(best[-1], option):
            best.pop()
        best.append(option)
    return best


def _gain(small: Option, large: Option) -> float:
    """Harm that each further byte saves."""
    return (small.harm - large.harm) / (large.size - small.size)


def frontier(options: Options) -> list[Choice]:
    """Returns every choice that is best at some price of a byte, smallest first.

    Args:
        options: The formats of each weight.

    Returns:
        From all weights in their smallest format to all in their best, each choice one step of one weight from the
        last.
    """
    hulls = {weight: hull(formats) for weight, formats in options.items()}
    steps = [
        (_gain(small, large), weight, small, large)
        for weight, formats in hulls.items()
        for small, large in pairwise(formats)
    ]
    # Within a hull the gains fall, so that the order of all steps keeps the order of each weight's own.
    steps.sort(key=lambda step: (-step[0], step[1]))
    choices = [_choice({weight: formats[0] for weight, formats in hulls.items()})]
    now = {weight: formats[0] for weight, formats in hulls.items()}
    for _, weight, _, large in steps:
        now[weight] = large
        choices.append(_choice(now))
    return choices


def _choice(now: Mapping[str, Option]) -> Choice:
    return Choice(
        {weight: option.format for weight, option in now.items()},
        sum(option.size for option in now.values()),
        sum(option.harm for option in now.values()),
    )


def within_size(options: Options, budget: int) -> Choice | None:
    """Returns the choice of least harm that was found within a number of bytes.

    Args:
        options: The formats of each weight.
        budget: Bytes of all weights together.

    Returns:
        The largest choice of the frontier that fits, and on top of it, as long as any fits into the bytes left, the
        change of one weight that lowers the harm most for each byte. None where even the smallest choice is larger.
    """
    fitting = [choice for choice in frontier(options) if choice.size <= budget]
    if not fitting:
        return None
    by_name = {weight: {option.format: option for option in formats} for weight, formats in options.items()}
    now = {weight: by_name[weight][format] for weight, format in fitting[-1].formats.items()}
    left = budget - fitting[-1].size
    while True:
        changes = [
            ((now[weight].harm - option.harm) / max(1, option.size - now[weight].size), weight, option.format)
            for weight, formats in options.items()
            for option in formats
            if option.harm < now[weight].harm and option.size - now[weight].size <= left
        ]
        if not changes:
            return _choice(now)
        _, weight, format = max(changes)
        left -= by_name[weight][format].size - now[weight].size
        now[weight] = by_name[weight][format]


def smallest_accepted(choices: list[Choice], accepts: Callable[[Choice], bool]) -> Choice | None:
    """Finds the smallest choice that passes a test, by bisection.

    Args:
        choices: Smallest first. Whatever passes is taken to mean that all larger ones pass as well; where a test is
            noisy this is not quite so, and the choice returned is one that passed with a smaller one that did not.
        accepts: The test; it is called at most log2(len(choices)) + 2 times.

    Returns:
        The choice, or None where not even the largest passes.
    """
    low, high = 0, len(choices) - 1
    if not choices or not accepts(choices[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        if accepts(choices[middle]):
            high = middle
        else:
            low = middle + 1
    return choices[high]
