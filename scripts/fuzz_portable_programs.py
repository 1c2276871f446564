"""Builds random small ML Programs and compares the portable runtime with float64 numpy.

    python scripts/fuzz_portable_programs.py --count 2000 --seed 1

Every program is built with coremltools, saved as a package and loaded again. One of float32 must come within 1e-4 of
the largest value of a result; one of float16 as close to its meaning with each result rounded as a few roundings that
fell the other way explain, and without rounding (`precision="float32"`) as close to its exact meaning as the rounding
of the output. Integers must be equal. A failure prints the seed, with which `--count 1` makes the program again.
"""

from __future__ import annotations

import argparse
import collections
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from program_fuzzing import computing, moving, products  # noqa: F401  registers the moves
from program_fuzzing.maker import MOVES, Maker
from tqdm import tqdm

from optimum_ane.runtimes.portable import PortableSession

_TYPES = {"float16": types.fp16, "float32": types.fp32, "int32": types.int32}
_OUTPUTS = 4


class MismatchError(AssertionError):
    """The runtime and numpy disagree."""


def make(seed: int, moves: Sequence[str] = ()) -> tuple[Maker, ct.target, list[int]]:
    """Makes a program.

    Args:
        seed: Decides everything.
        moves: The moves to draw from; all where none is named.

    Returns:
        The program, its deployment target, and the places of the values that it returns.
    """
    rng = np.random.default_rng(seed)
    half = bool(rng.random() < 0.5)
    targets = [ct.target.iOS16, ct.target.iOS17, ct.target.iOS18] + ([] if half else [ct.target.iOS15])
    target = targets[int(rng.integers(len(targets)))]
    maker = Maker(rng, np.float16 if half else np.float32, target >= ct.target.iOS17)
    wanted = maker.integer(2, 12)
    names = list(moves or MOVES)
    for _ in range(20 * wanted):
        if len(maker.steps) >= wanted:
            break
        MOVES[maker.choice(names)](maker)
    used = {i for step in maker.steps for i in step.operands}
    computed = range(len(maker.inputs), len(maker.exact))
    leaves = [i for i in computed if i not in used]
    more = [i for i in computed if i in used and maker.chance(0.3)]
    return maker, target, (leaves + more)[-_OUTPUTS:]


def save(maker: Maker, target: ct.target, outputs: Sequence[int], path: Path) -> None:
    """Saves a program as it is written, without coremltools' graph passes."""

    def build(*inputs: Any) -> Any:
        values = list(inputs)
        for step in maker.steps:
            values.append(step.emit(*(values[i] for i in step.operands)))
        returned = [values[i] for i in outputs]
        kinds = [maker.kind(i) for i in outputs]
        return tuple(
            Builder.cast(x=value, dtype="int32") if kind == "b" else Builder.identity(x=value)
            for value, kind in zip(returned, kinds, strict=True)
        )

    # MIL takes the names of the inputs from the code of the function, so that it must be written for them.
    names = ", ".join(f"in{i}" for i in range(len(maker.inputs)))
    scope: dict[str, Any] = {"build": build}
    exec(f"def program({names}): return build({names})", scope)
    specs = [Builder.TensorSpec(shape=a.shape, dtype=_TYPES[a.dtype.name]) for a in maker.inputs]
    program = Builder.program(input_specs=specs, opset_version=target)(scope["program"])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))


def check(seed: int, folder: Path, moves: Sequence[str] = ()) -> Maker:
    """Makes, saves, runs and compares one program.

    Args:
        seed: Decides everything.
        folder: Where the package goes, over that of the program before.
        moves: As in `make`.

    Returns:
        The program.

    Raises:
        MismatchError: A result is wrong.
    """
    maker, target, outputs = make(seed, moves)
    if not outputs:
        return maker
    path = folder / "fuzz.mlpackage"
    save(maker, target, outputs, path)
    compare(path, maker, outputs, f"seed {seed}")
    return maker


def compare(path: Path, maker: Maker, outputs: Sequence[int], where: str) -> None:
    """Runs a saved program and compares its results with what they mean.

    Args:
        path: The package.
        maker: The program.
        outputs: The places of the values that it returns.
        where: For messages.

    Raises:
        MismatchError: A result is wrong.
    """
    inputs = {f"in{i}": a for i, a in enumerate(maker.inputs)}
    for precision in ("program", "float32"):
        session = PortableSession(path, precision=precision)
        # The first prediction runs each operation by itself; a second one is not looked into.
        results, again = (list(session.predict(inputs).values()) for _ in range(2))
        meanings = maker.rounded if precision == "program" else maker.exact
        half = maker.dtype is np.float16
        tolerance = (1e-2 if precision == "program" else 2e-3) if half else 1e-4
        for place, result, other in zip(outputs, results, again, strict=True):
            _compare(result, meanings[place], tolerance, f"{where}, {precision}, value {place}", maker)
            if not np.array_equal(result, other, equal_nan=result.dtype.kind == "f"):
                raise MismatchError(f"{where}, {precision}, value {place}: another one again\n{listing(maker)}")


def _compare(result: np.ndarray, meaning: np.ndarray, tolerance: float, where: str, maker: Maker) -> None:
    meaning = meaning.reshape(meaning.shape or (1,))  # Core ML gives a scalar one axis
    if result.shape != meaning.shape:
        raise MismatchError(f"{where}: shape {result.shape} instead of {meaning.shape}\n{listing(maker)}")
    if not result.size:
        return
    difference = np.abs(result.astype(np.float64) - meaning)
    allowed = 0.0 if meaning.dtype.kind in "ib" else tolerance * (np.abs(meaning).max() + 0.1)
    if not (difference <= allowed).all():
        raise MismatchError(f"{where}: off by {difference.max():.3g}, allowed {allowed:.3g}\n{listing(maker)}")


def listing(maker: Maker) -> str:
    """Returns a program as text, one line for each value."""
    lines = [f"  {i}: input {a.dtype.name} {a.shape}" for i, a in enumerate(maker.inputs)]
    for i, step in enumerate(maker.steps, len(maker.inputs)):
        lines.append(f"  {i}: {step.text} of {list(step.operands)} -> {maker.shape(i)}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many programs")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first; the others follow")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no program after so many")
    parser.add_argument("--moves", choices=sorted(MOVES), nargs="*", default=[], help="draw from these moves alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # coremltools collects garbage in each conversion: 0.2 s with torch's modules to look through
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # a bar for each of three pipelines of each program
    warnings.filterwarnings("ignore", module="coremltools")
    used: collections.Counter[str] = collections.Counter()
    failures = done = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            if time.perf_counter() - start > arguments.seconds:
                break
            done += 1
            try:
                maker = check(seed, Path(folder), arguments.moves)
            except Exception as error:  # noqa: BLE001  a fuzzer reports whatever comes and goes on
                failures += 1
                print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            used.update(step.text.split()[0] for step in maker.steps)
    seconds = time.perf_counter() - start
    print(", ".join(f"{name} {count}" for name, count in used.most_common()))
    print(f"{done} programs, {used.total()} operations of {len(used)} kinds, {failures} failures, {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
