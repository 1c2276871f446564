"""Builds random small ML Programs, rewrites them as `ane optimize` does, and compares the result with float64 numpy.

    python scripts/fuzz_rewritten_programs.py --count 500 --seed 1

The passes know nothing of these programs, so that most of each is a form that they must leave or bring back. A failure
prints the seed, with which `--count 1` makes the program again.
"""

from __future__ import annotations

import argparse
import gc
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from fuzz_portable_programs import compare, make, save

from optimum_ane.analysis.operations import count_operations
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.passes import optimize_passes
from optimum_ane.targets.coreml.quiet import quiet
from optimum_ane.targets.coreml.rewrite import rewrite_package


def check(seed: int, folder: Path) -> bool:
    """Makes, saves, rewrites, runs and compares one program.

    Args:
        seed: Decides everything.
        folder: Where the packages go, over those of the program before.

    Returns:
        Whether its operations are others now.

    Raises:
        MismatchError: A result is wrong.
    """
    maker, target, outputs = make(seed)
    if not outputs:
        return False
    source, rewritten = folder / "fuzz.mlpackage", folder / "rewritten.mlpackage"
    with quiet():
        save(maker, target, outputs, source)
    shutil.rmtree(rewritten, ignore_errors=True)
    rewrite_package(Package(source), optimize_passes, rewritten)
    compare(rewritten, maker, outputs, f"seed {seed}, rewritten")
    return count_operations(source) != count_operations(rewritten)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many programs")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first; the others follow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    gc.freeze()  # coremltools collects garbage in each conversion: 0.2 s with torch's modules to look through
    failures = changed = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            try:
                changed += check(seed, Path(folder))
            except Exception as error:  # noqa: BLE001  a fuzzer reports whatever comes and goes on
                failures += 1
                print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
    seconds = time.perf_counter() - start
    print(f"{arguments.count} programs, {changed} rewritten, {failures} failures, {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
