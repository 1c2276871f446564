"""The options that set limits for a prediction, the same for every command that predicts."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimum_ane.analysis.gates import Gates


def add_gate_arguments(parser: ArgumentParser) -> None:
    """Adds `--chip` and the limits, in a group of their own.

    Args:
        parser: The command's parser.
    """
    group = parser.add_argument_group(
        "prediction",
        "Where operations run and how long they take is predicted from the program and public sources; nothing here\n"
        "ran on a Neural Engine. A limit that is not kept ends the command with exit code 1 and the reason.",
    )
    group.add_argument(
        "--chip",
        metavar="CHIP",
        help="predict for this chip, A15 or M2 say (default: any from A14 and M1 on, and no latency)",
    )
    group.add_argument(
        "--min-residency",
        type=_share,
        metavar="SHARE",
        help="fail if less of the arithmetic is predicted on the Neural Engine, 0.98 say; what runs there only under "
        "a condition does not count",
    )
    group.add_argument(
        "--max-regions",
        type=_positive,
        metavar="N",
        help="fail if the program falls into more regions, on and off the Neural Engine; 2 allows one crossing",
    )
    group.add_argument(
        "--max-latency-ms",
        type=_milliseconds,
        metavar="MS",
        help="fail if a prediction is estimated to take longer on the chip, typically; needs --chip",
    )


def gates_from_args(args: Namespace) -> Gates:
    """Returns the limits that the options set.

    Raises:
        InputError: A latency is limited, and no chip is named.
    """
    from optimum_ane.analysis.gates import Gates

    gates = Gates(args.min_residency, args.max_regions, args.max_latency_ms)
    gates.check_chip(args.chip)
    return gates


def _share(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return number


def _milliseconds(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if isfinite(number) else -1.0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
