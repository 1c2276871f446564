"""What a newcomer meets: the first line of a command, and the README's commands in a clone without network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from verification.row import REPOSITORY, Row

MOST_SECONDS = 2.0
_COMMANDS = (
    "export ane --model demo/checkpoint --sequence-length 32 --eval-dataset demo/dev.tsv --chip A15 out/",
    "ane inspect out/ --chip A15",
    "ane evaluate out/ --dataset demo/dev.tsv",
    "ane run out/ --profile --intermediates *attention*",
    "ane compress out/ int8 out-int8/ --dataset demo/dev.tsv",
    "ane inspect out/ --html report.html",
    "ane inspect out/ --min-residency 0.98 --max-regions 2",
    "ane publish out/ my-org/distilbert-sst2-ane --license apache-2.0 --dry-run",
)
"""Those of the README that say that they run without network, on what `make demo` leaves."""
_FIRST_LINES = ("export ane", "ane evaluate", "ane inspect")


def measure(folder: Path) -> Iterator[Row]:
    """Clones the repository to a place without `../shared`, and runs the commands there, offline."""
    environment = Path(sys.prefix)
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(clone), "HF_HOME": str(folder / "cache")}
    if not (environment / "installed").is_file():
        yield Row("make demo in a clone, offline", "runs", f"{environment} was not made by `make install`", None)
        return
    demo = subprocess.run(
        ["make", "demo", f"VENV={environment}", "--assume-old=pyproject.toml", "--assume-old=constraints.txt"],
        cwd=clone,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    yield Row("make demo in a clone, offline", "exit code 0", f"exit code {demo.returncode}", demo.returncode == 0)
    slowest, failed = {}, []
    for line in _COMMANDS:
        seconds, code = _run([environment / "bin" / "optimum-cli", *line.split()], clone, variables)
        if code:
            failed.append(f"{line} (exit code {code})")
        for name in _FIRST_LINES:
            if line.startswith(name):
                slowest[name] = max(seconds, slowest.get(name, 0.0))
    yield Row(
        f"{len(_COMMANDS)} commands of the README in a clone, offline, without ../shared",
        "all run",
        f"{len(_COMMANDS) - len(failed)} run" + "".join(f"; {each}" for each in failed),
        not failed,
    )
    yield Row(
        "first line on the screen of export, evaluate, inspect",
        f"≤ {MOST_SECONDS:.0f} s",
        ", ".join(f"{seconds:.2f} s ({name})" for name, seconds in slowest.items()),
        max(slowest.values()) <= MOST_SECONDS,
    )


def _run(command: Sequence[str | Path], folder: Path, variables: dict[str, str]) -> tuple[float, int]:
    """Seconds until the first line, and the exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    seconds = time.perf_counter() - start
    process.stdout.read()
    return seconds, process.wait()
