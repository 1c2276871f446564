"""The test suite, as `make test` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from verification.row import REPOSITORY, Row

MOST_MINUTES = 15


def measure(folder: Path) -> Iterator[Row]:
    """Runs every test on two workers."""
    del folder
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "2", "--dist", "loadfile"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    minutes = (time.perf_counter() - start) / 60
    yield Row(
        "test suite on two workers",
        f"all pass in < {MOST_MINUTES} minutes",
        f"{_counts(run.stdout)} ({minutes:.1f} minutes)",
        run.returncode == 0 and minutes < MOST_MINUTES,
    )


def _counts(output: str) -> str:
    """The line that says how many tests passed; pytest may print notices after it."""
    lines = [line.strip("= ") for line in output.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    return lines[-1] if lines else "no test ran"
