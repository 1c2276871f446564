"""How a package was made, as a line to copy: no secrets, and no paths of the machine that it was made on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_ane.evaluation.datasets import DatasetSpec
    from optimum_ane.package.form import ExportForm

OUTPUT = "out"
"""What the output is called, whatever it was called: the name says nothing of the package."""


def public_name(name: str) -> str:
    """A file or directory without the path that leads to it; anything else, a Hub id for one, as it is."""
    path = Path(name).expanduser()
    is_local = path.exists() or path.is_absolute() or name.startswith((".", "~"))
    return path.resolve().name if is_local else name


def command_line(program: str, options: Mapping[str, Any]) -> str:
    """Writes a command for a POSIX shell.

    Args:
        program: The command and subcommands.
        options: Flags with their values, in order; True stands for a flag without one. None and False are left out.
    """
    words = program.split()
    for flag, value in options.items():
        if value is None or value is False:
            continue
        words.append(flag)
        if value is not True:
            words += [shlex.quote(str(item)) for item in (value if isinstance(value, list | tuple) else [value])]
    return " ".join([*words, f"{OUTPUT}/"])


def python_call(
    model: str, form: ExportForm, dataset: DatasetSpec | None, settings: Mapping[str, tuple[Any, Any]]
) -> str:
    """Writes the call of `optimum_ane.export` that asks for the same.

    Args:
        model: The checkpoint as an expression: its name in quotes, or a variable's name for a model in memory.
        form: The form of the package; what is as by default is left out.
        dataset: What it was evaluated on.
        settings: Other arguments by name: their value and their default.
    """
    arguments = [model, repr(OUTPUT)]
    arguments += [f"{name}={value!r}" for name, value in form.differences().items()]
    if dataset is not None:
        arguments.append(f"eval_dataset={_dataset_call(dataset)}")
    arguments += [f"{name}={value!r}" for name, (value, default) in settings.items() if value != default]
    return f"optimum_ane.export({', '.join(arguments)})"


def _dataset_call(dataset: DatasetSpec) -> str:
    """A string where that is enough."""
    given = {entry.name: getattr(dataset, entry.name) for entry in fields(dataset)}
    given["dataset"] = public_name(dataset.dataset)
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) == 1:
        return repr(given["dataset"])
    return f"DatasetSpec({', '.join(f'{name}={value!r}' for name, value in given.items())})"
