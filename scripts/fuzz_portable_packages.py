"""Mutates small packages and lets the portable runtime load and run them: it may answer or refuse, nothing else.

    python scripts/fuzz_portable_packages.py --count 20000 --seed 0
    python scripts/fuzz_portable_packages.py --seed 0 --only 1234 --keep bad    # makes one mutant again, and keeps it

Workers are forked, with their memory capped: one that dies or stands still is seen, counted and replaced, and its
mutant is kept. Exits with 1 when there is any outcome but a valid result or a clean error.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from portable_fuzzing.corpus import build
from portable_fuzzing.mutations import Mutator, Seed

from optimum_ane.errors import ExecutionError, InputError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits
from optimum_ane.runtimes.portable.control import CONTROL
from optimum_ane.runtimes.portable.registry import OPERATIONS

CLEAN = ("answered", "refused at load", "refused at prediction", "refused inputs")
HANG_SECONDS = 20
MEMORY_BYTES = 3 * 2**30


def lower_limits() -> None:
    """Sets limits that small machines reach quickly: what is tested is that they hold, not how high they are."""
    limits.MAX_ELEMENTS, limits.MAX_WORK, limits.MAX_TURNS = 2**22, 2**32, 2**12
    limits.memory = lambda: 2**28  # type: ignore[assignment]


def outcome(path: Path, precision: Any = "program") -> tuple[str, str]:
    """Loads a package and predicts, and tells what came of it; anything unforeseen is raised."""
    try:
        session = PortableSession(path, precision=precision)
    except PackageError as error:
        _named(error, path)
        return "refused at load", str(error)
    try:
        state = session.make_state() if session.states else None
        inputs = {name: _input(spec) for name, spec in session.inputs.items()}
        results = session.predict(inputs, state)
        again = session.predict(inputs, state)
    except InputError as error:
        return "refused inputs", str(error)
    except ExecutionError as error:
        _named(error, path)
        if "allocate" in str(error):
            raise AssertionError(f"memory was asked for before the limits were: {error}") from error
        return "refused at prediction", str(error)
    assert results.keys() == again.keys() == session.outputs.keys()
    for name, spec in session.outputs.items():
        _check(results[name], spec)
    return "answered", ""


def _named(error: Exception, path: Path) -> None:
    assert str(path) in str(error), f"the error does not name the package: {error}"


def _input(spec: Any) -> np.ndarray:
    count = int(np.prod(spec.shape, dtype=object))
    if count > 2**22 or count < 0:
        return np.ones(1, np.float32)
    numbers = np.arange(count) % 3
    return numbers.astype(spec.dtype).reshape(spec.shape)


def _check(value: Any, spec: Any) -> None:
    if spec.dtype in ("string", "dictionary"):
        assert isinstance(value, str | dict)
    elif spec.image:
        assert value.mode in ("RGBA", "L", "F")
        np.asarray(value).sum()
    elif not isinstance(value, int):
        assert isinstance(value, np.ndarray)
        assert value.dtype == spec.dtype, (value.dtype, spec)
        value.sum()  # reads all of it


def work(mutator: Mutator, seed: int, numbers: Iterator[int], folder: Path, pipe: int) -> None:
    """Runs mutants and writes a line for each into a pipe: number, outcome, what was done, what was said."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = folder / "m.mlpackage"
    for number in numbers:
        mutant, done = mutator.mutant(Random(f"{seed}-{number}"))
        mutant.write(path)
        os.write(pipe, f"{number}\tbegun\t{done}\t\n".encode())
        try:
            kind, says = outcome(path, "program" if number % 4 else "float32")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a bug, and counted
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind, says = f"BUG {type(error).__name__}", f"{place.filename}:{place.lineno} {error}"
        line = f"{number}\t{kind}\t{done}\t{says!r}"[:2000]
        os.write(pipe, (line + "\n").encode("utf-8", "replace"))


def run(mutator: Mutator, seed: int, numbers: list[int], folder: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yields number, outcome, what was done and what was said of each mutant, whatever happens to the workers."""
    position = 0
    while position < len(numbers):
        reader, writer = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(reader)
            try:
                work(mutator, seed, iter(numbers[position:]), folder, writer)
            finally:
                os._exit(0)
        os.close(writer)
        buffer, last = b"", ("", "")
        hung = False
        while True:
            ready, _, _ = select.select([reader], [], [], HANG_SECONDS)
            chunk = os.read(reader, 65536) if ready else b""
            if not chunk:
                hung = not ready
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                number, kind, done, says = line.decode().split("\t", 3)
                if kind == "begun":
                    last = (number, done)
                else:
                    yield int(number), kind, done, says
                    position += 1
                    last = ("", "")
        os.close(reader)
        if hung:
            os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        if position < len(numbers):
            died = f"BUG killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "BUG worker ended"
            yield numbers[position], "BUG hang" if hung else died, last[1], ""
            position += 1


def make_mutator(folder: Path) -> Mutator:
    """Builds the packages, or takes those that were built into the folder before."""
    operations = {name: (operation.required, frozenset(operation.roles)) for name, operation in OPERATIONS.items()}
    operations.update(dict.fromkeys(CONTROL, (frozenset({"pred"}), frozenset({"pred", "loop_vars"}))))
    return Mutator([Seed.read(path) for path in build(folder)], operations)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one mutant")
    parser.add_argument("--corpus", type=Path, help="where the packages are built, to be used again")
    parser.add_argument("--keep", type=Path, help="where mutants that reveal a bug are kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    lower_limits()
    numbers = list(range(options.count)) if options.only is None else [options.only]
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch) / "corpus"
        mutator = make_mutator(corpus)
        built = time.monotonic()
        for number, kind, done, says in run(mutator, options.seed, numbers, Path(scratch)):
            counts[kind] += 1
            if kind not in CLEAN or options.only is not None:
                print(f"{number}\t{kind}\t{done}\t{says[:300]}", flush=True)
                if options.keep:
                    mutator.mutant(Random(f"{options.seed}-{number}"))[0].write(options.keep / f"{number}.mlpackage")
            examples.setdefault(kind, says)
    bugs = sum(count for kind, count in counts.items() if kind not in CLEAN)
    print(f"{len(numbers)} mutants in {time.monotonic() - built:.0f} s, packages built in {built - start:.0f} s")
    for kind, count in counts.most_common():
        print(f"{count:7d}  {kind}")
    return 1 if bugs else 0


if __name__ == "__main__":
    sys.exit(main())
