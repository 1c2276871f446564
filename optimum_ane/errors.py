"""What can go wrong in a user's hands. Each message says what was wrong, where, and what to do, in one line.

Messages are written with the options of the command line, `--sequence-length`. A caller from Python reads the
arguments of the functions in their place, `sequence_length`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on_command_line = ContextVar("on_command_line", default=False)
_COMMAND_OR_OPTION = re.compile(r"`[^`]*`|(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])")
"""A command to copy is left as it is."""
_SWITCHES = {
    "--class-labels": "class_labels=True",
    "--create-pr": "create_pr=True",
    "--eval-dataset": "eval_dataset",
    "--no-compare": "with_original=False",
    "--no-reference": "with_reference=False",
    "--no-validate": "validate=False",
    "--normalize": "normalize=True",
    "--overwrite": "overwrite=True",
    "--private": "private=True",
    "--trust-remote-code": "trust_remote_code=True",
}
"""Options without a value, and those that Python calls otherwise."""


@contextmanager
def for_command_line() -> Iterator[None]:
    """While the block runs, errors name the options of the command line."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def _in_python(match: re.Match[str]) -> str:
    text = match[0]
    return text if text.startswith("`") else _SWITCHES.get(text, text[2:].replace("-", "_"))


class ANEError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback and exits with 1."""

    def __str__(self) -> str:
        """The message, in the words of the caller: of the command line, or of Python."""
        text = super().__str__()
        return text if _on_command_line.get() else _COMMAND_OR_OPTION.sub(_in_python, text)


class CheckpointError(ANEError, ValueError):
    """The source checkpoint is missing, truncated, or contradicts its own configuration."""


class UnsupportedModelError(ANEError, ValueError):
    """No Neural Engine implementation is registered for this architecture, or not for this task."""


class NoCacheError(UnsupportedModelError):
    """The architecture keeps no keys and values of the tokens that it has read, or not of all layers."""


class ShapeError(ANEError, ValueError):
    """A shape that cannot work: the message holds the number asked for and the number that is the limit."""


class OutputError(ANEError, OSError):
    """The output cannot be written: it exists already, the disk is full, or permission is lacking."""


class ValidationError(ANEError, RuntimeError):
    """An export that does not answer as the original does. Nothing is left in the output's place."""


class PackageError(ANEError, ValueError):
    """A package on disk is damaged, incomplete, or hostile; the message names the package and the place."""


class UnsupportedOperationError(PackageError):
    """A program contains operations that the runtime lacks; the message names them and where they are used."""


class InputError(ANEError, ValueError):
    """Inputs of a prediction that do not match the package: the message says what was expected and what came."""


class ExecutionError(ANEError, RuntimeError):
    """A prediction that an operation refused, an index out of range say; the message names the operation."""


class RuntimeUnavailableError(ANEError, RuntimeError):
    """The runtime asked for cannot run on this machine."""


class DatasetError(ANEError, ValueError):
    """A dataset that cannot be evaluated; the message names file, row and column."""


class CompressionError(ANEError, ValueError):
    """A compression recipe that is not known, contradicts itself, or does not fit the package."""


class PublishError(ANEError, RuntimeError):
    """A package that was not published, or a Hub that refused it; the message says what stands on the Hub now."""


class CardError(ANEError, ValueError):
    """A card's template that cannot be read or rendered; the message names its line."""
