"""Load time, first prediction and peak of memory, each model in a process of its own.

In one process the peak of the second would hide under that of the first, and libraries, caches and compiled programs
of the first would serve the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from optimum_ane.benchmark.timed_models import Inputs, TimedModel
from optimum_ane.errors import ExecutionError
from optimum_ane.package.working_folders import WorkingFolder
from optimum_ane.runtimes.arrays import write_arrays

_MAX_SECONDS = 1800


@dataclass(frozen=True)
class ProcessMeasurement:
    """What a fresh process saw.

    Attributes:
        load_seconds: From the files on disk to ready, the libraries being imported already. Core ML compiles a
            package for its unit when it sees it first and keeps the result, so that a second run loads faster.
        first_prediction_ms: The first one; of a package through its model class, as a user's first call.
        memory_bytes: Peak of resident memory from loading to the last prediction, above what the process held with
            all libraries imported. Memory that the system gives to a device's driver is not in it.
    """

    load_seconds: float
    first_prediction_ms: float
    memory_bytes: int


def measure_process(model: TimedModel, inputs: Inputs, threads: int) -> ProcessMeasurement:
    """Loads a model and predicts a few times in a new process.

    Args:
        model: What to measure.
        inputs: What it is called with.
        threads: PyTorch's.

    Raises:
        ExecutionError: The process failed; the message holds its last words.
    """
    with WorkingFolder.temporary() as folder:
        arrays = folder / "inputs.npz"
        write_arrays(arrays, inputs)
        request = json.dumps({"model": model.to_dict(), "inputs": str(arrays), "threads": threads})
        command = [sys.executable, "-m", "optimum_ane.benchmark.memory_process"]
        try:
            done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=_MAX_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ExecutionError(f"{model.name}: no prediction within {_MAX_SECONDS} seconds") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise ExecutionError(f"{model.name} could not be measured in a process of its own: {words[-1]}")
    return ProcessMeasurement(**json.loads(done.stdout.splitlines()[-1]))
