"""The other process of `memory.measure_process`: reads what to measure from stdin and writes one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from optimum_ane.benchmark.memory import ProcessMeasurement
from optimum_ane.benchmark.timed_models import TimedModel, load_timed_model
from optimum_ane.errors import ANEError
from optimum_ane.runtimes.arrays import read_arrays
from optimum_ane.screen import say

_PREDICTIONS = 3
_PROCESS = Path("/proc/self")


def main() -> int:
    """Measures one model; an error that a user can mend becomes the last line on stderr."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    try:
        result = _measure(TimedModel.from_dict(request["model"]), request["inputs"])
    except ANEError as error:
        say(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)))
    return 0


def _measure(model: TimedModel, path: str) -> ProcessMeasurement:
    inputs = {name: torch.from_numpy(value) for name, value in read_arrays(path).items()}
    torch.nn.functional.linear(torch.zeros(8, 8), torch.zeros(8, 8))  # starts PyTorch's threads and libraries
    # Where the kernel forbids it, the peak of the imports stands, and what is reported is too small by it.
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")
    before = _peak()
    start = time.perf_counter()
    run = load_timed_model(model)
    loaded = time.perf_counter()
    run(**inputs)
    first = time.perf_counter() - loaded
    for _ in range(_PREDICTIONS):
        run(**inputs)
    return ProcessMeasurement(loaded - start, first * 1e3, max(0, _peak() - before))


def _peak() -> int:
    """The process's peak of resident memory in bytes, since `clear_refs` where there is one."""
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
