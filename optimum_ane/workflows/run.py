"""Runs a package once and shows what happens inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from optimum_ane.errors import InputError
from optimum_ane.package.layout import find_mlpackage
from optimum_ane.runtimes.arrays import check_place, random_arrays, read_arrays, write_arrays
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.inspection import Profile, new_state, profile
from optimum_ane.runtimes.portable.recorder import Recorder
from optimum_ane.runtimes.portable.session import Precision
from optimum_ane.screen import make_console

_NUMBERS_SHOWN = 6


def run_package(
    package: str | Path,
    *,
    inputs: str | Path | None = None,
    seed: int = 0,
    function_name: str | None = None,
    outputs: str | Path | None = None,
    precision: Precision = "program",
    threads: int | None = None,
    profiled: bool = False,
    intermediates: Sequence[str] = (),
    intermediates_file: str | Path = "intermediates.npz",
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs a package once with the portable runtime, prints its outputs, and writes what is asked for.

    Args:
        package: An exported directory, or an `.mlpackage`.
        inputs: An .npz or .json file; None makes random inputs of the declared shapes.
        seed: Which random inputs.
        function_name: The function; None takes the package's default.
        outputs: Where to write the outputs, if anywhere.
        precision: As `PortableSession` takes it.
        threads: PyTorch's threads from now on; None leaves them.
        profiled: Whether to time the operations and print where the time goes.
        intermediates: Names or patterns of values to write, or `@file` with one on each line.
        intermediates_file: Where to write them.
        console: Where to print; None is stdout.

    Returns:
        The outputs.

    Raises:
        InputError: The inputs do not fit, or no value has a name that was asked for.
        OutputError: A file cannot be written.
        PackageError: The package is damaged, or not there.
        ExecutionError: An operation refused its operands.
    """
    path = find_mlpackage(package)
    patterns = _patterns(intermediates)
    for place in ([outputs] if outputs else []) + ([intermediates_file] if patterns else []):
        check_place(place)
    given = None if inputs is None else read_arrays(inputs)
    if threads is not None:
        torch.set_num_threads(threads)
    console = console or make_console(wraps=False)
    session = PortableSession(path, function_name, precision)
    if given is None:
        given = random_arrays(session.inputs, seed)
        console.print(f"no inputs were given: random ones of seed {seed}; integers are 0 or 1")
    recorder = Recorder(patterns, rounded=precision == "program") if patterns else None
    results = session.predict(given, new_state(session), observer=recorder)
    console.print(f"{path.name}, function {session.function_name}, precision {precision}")
    if session.states:
        console.print(f"states, all zeros before: {', '.join(session.states)}")
    for name, value in results.items():
        console.print(f"{name}: {_shown(value)}")
    if outputs:
        write_arrays(outputs, results)
        console.print(f"outputs: {outputs}")
    if recorder is not None:
        for name, value in given.items():
            recorder.add(name, np.asarray(value, session.inputs[name].dtype))
        recorder.check()
        write_arrays(intermediates_file, recorder.values)
        console.print(f"{len(recorder.values)} intermediate values: {intermediates_file}")
        _print_not_finite(console, recorder)
    if profiled:
        _print_profile(console, profile(session, given), torch.get_num_threads())
    return results


def _patterns(arguments: Sequence[str]) -> list[str]:
    """Names and patterns as they were given, those in files included."""
    patterns = []
    for argument in arguments:
        if not argument.startswith("@"):
            patterns.append(argument)
            continue
        try:
            lines = Path(argument[1:]).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{argument[1:]} cannot be read: {error}") from error
        patterns += [line.strip() for line in lines if line.strip()]
    if arguments and not patterns:
        raise InputError(f"{', '.join(arguments)} names no value")
    return patterns


def _shown(value: Any) -> str:
    """One line on an output: a label, probabilities from the highest on, or an array's type, shape and numbers."""
    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: -item[1])[:_NUMBERS_SHOWN]
        more = ", …" if len(value) > len(best) else ""
        return ", ".join(f"{key} {number:.4f}" for key, number in best) + more
    if not isinstance(value, np.ndarray):
        return str(value)
    numbers = ", ".join(f"{number:.6g}" for number in value.ravel()[:_NUMBERS_SHOWN])
    more = ", …" if value.size > _NUMBERS_SHOWN else ""
    text = f"{value.dtype} {value.shape} [{numbers}{more}]"
    if not value.size or value.dtype.kind not in "fiu":
        return text
    # In float64: the sum of many fp16 numbers is infinite.
    return f"{text}, from {value.min():.6g} to {value.max():.6g}, mean {value.mean(dtype=np.float64):.6g}"


def _print_not_finite(console: Console, recorder: Recorder) -> None:
    for name, array in recorder.values.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            kind = "nan" if np.isnan(array).any() else "infinity"
            console.print(f"the first of them that holds {kind}: {name}")
            return


def _print_profile(console: Console, result: Profile, threads: int) -> None:
    total = sum(timing.seconds for timing in result.timings)
    console.print(
        f"\na prediction takes {result.seconds * 1e3:.2f} ms; with a look at each operation {total * 1e3:.2f} ms "
        f"(medians of {result.runs}, {threads} {'thread' if threads == 1 else 'threads'})"
    )
    kinds = Table("operation", title="Time per kind of operation", title_justify="left")
    for heading in ("uses", "ms", "%"):
        kinds.add_column(heading, justify="right")
    for op, uses, seconds in result.by_operation():
        kinds.add_row(op, str(uses), f"{seconds * 1e3:.3f}", f"{100 * seconds / total:.1f}")
    console.print(kinds)
    slowest = Table("operation", "value", title="The slowest operations", title_justify="left")
    for heading in ("ms", "%"):
        slowest.add_column(heading, justify="right")
    for timing in result.slowest():
        share = 100 * timing.seconds / total
        slowest.add_row(timing.op, timing.name, f"{timing.seconds * 1e3:.3f}", f"{share:.1f}")
    console.print(slowest)
