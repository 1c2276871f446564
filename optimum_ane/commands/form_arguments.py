"""The options of an export's form, made from the dataclass that states them."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from optimum_ane.package.form import ExportForm
from optimum_ane.tasks import TASKS

LEFT_OVER = "after_numbers"
"""Where a word goes that follows the numbers of an option, as in `--sequence-length 32 64 out/`: argparse would take
it for one more number."""


class _Numbers(Action):
    """Whole numbers, and at most one other word after them, which is kept for `output_from_args`."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        count = next((index for index, word in enumerate(values) if not word.isdecimal()), len(values))
        rest = values[count:]
        if not count or len(rest) > 1:
            parser.error(f"argument {option_string}: invalid int value: {rest[0]!r}")
        setattr(namespace, self.dest, tuple(int(word) for word in values[:count]))
        if rest:
            setattr(namespace, LEFT_OVER, rest[0])


def output_from_args(args: Namespace) -> Path | None:
    """The directory to make, wherever it stands on the command line."""
    left_over = getattr(args, LEFT_OVER, None)
    if left_over is None or args.output is not None:
        return args.output
    return Path(left_over)


def add_form_arguments(parser: ArgumentParser) -> Any:
    """Adds an option for each field of `ExportForm`, in a group of their own.

    Args:
        parser: The command's parser.

    Returns:
        The group, to which a command may add what it has besides.
    """
    group = parser.add_argument_group("the package")
    for entry in fields(ExportForm):
        flag = f"--{entry.name.replace('_', '-')}"
        if isinstance(entry.default, bool):
            group.add_argument(flag, action="store_true", help=entry.metadata["help"])
        else:
            group.add_argument(flag, default=_default(entry), **_arguments(entry))
    return group


def form_from_args(args: Namespace) -> ExportForm:
    """Makes the form that the options ask for.

    Raises:
        ANEError: A value cannot be, or options contradict each other.
    """
    return ExportForm(**{entry.name: getattr(args, entry.name) for entry in fields(ExportForm)})


def _help(entry: Field[Any]) -> str:
    """What a field says of itself; the form knows no task by name, the table of tasks does."""
    text: str = entry.metadata["help"]
    return f"{text}: {', '.join(TASKS)}" if entry.name == "task" else text


def _default(entry: Field[Any]) -> Any:
    assert entry.default is not MISSING
    return entry.default


def _arguments(entry: Field[Any]) -> dict[str, Any]:
    """How argparse takes a field that is no flag."""
    details = dict(entry.metadata) | {"help": _help(entry)}
    several = details.pop("several", False)
    default = _default(entry)
    if several and default is not None:
        default = default[0]
    if "default:" not in details["help"] and default is not None:
        details["help"] += f" (default: {default})"
    if several:
        return details | {"nargs": "+", "action": _Numbers}
    return details | ({"type": int} if isinstance(default, int) else {})
