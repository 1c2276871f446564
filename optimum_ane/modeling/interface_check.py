"""Whether the programs of a package are what its manifest says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from optimum_ane.errors import PackageError
from optimum_ane.package.layout import ANE_CONFIG

if TYPE_CHECKING:
    from optimum_ane.package.manifest import FunctionEntry, Manifest, TensorEntry
    from optimum_ane.runtimes import Session, TensorSpec


def check_interface(manifest: Manifest, sessions: Mapping[str, Session]) -> None:
    """Compares what `ane_config.json` says of each loaded function with what the program declares.

    Everything that takes a number from the manifest, a length to pad to say, may then trust it as far as the program.
    Of a program with several functions the default one is looked at, which is loaded, and the names of all.

    Raises:
        PackageError: They differ; the message names the first difference.
    """
    for program in manifest.programs:
        session = sessions[program.name]
        names = sorted(function.name for function in program.functions)
        if names != sorted(session.functions):
            raise _difference(program.name, "functions", names, sorted(session.functions))
        entry = next(function for function in program.functions if function.name == session.function_name)
        _check_function(program.name, entry, session)


def _check_function(program: str, entry: FunctionEntry, session: Session) -> None:
    where = f"{program}, function {entry.name}"
    for kind, entries, specs in (
        ("inputs", entry.inputs, session.inputs),
        ("outputs", entry.outputs, session.outputs),
        ("states", entry.states, session.states),
    ):
        stated, declared = _described(entries), _described(specs.values())
        if stated != declared:
            raise _difference(where, kind, stated, declared)


def _described(tensors: Iterable[TensorEntry | TensorSpec]) -> list[str]:
    return sorted(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors)


def _difference(where: str, kind: str, stated: list[str], declared: list[str]) -> PackageError:
    first = next((one for one in stated if one not in declared), "fewer")
    other = next((one for one in declared if one not in stated), "fewer")
    return PackageError(
        f"{ANE_CONFIG} does not describe the program {where}: of its {kind} it says {first:.120}, and the program "
        f"{other:.120}; export or download the package again"
    )
