"""A process that holds the real Hub client and answers calls of the tests; run as a script it is that process.

Calls and answers are pickled over pipes, both ends being ours. The client's waits between its tries are recorded.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import traceback
import types
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What a call gave.

    Attributes:
        value: What it returned; its `repr` where that cannot be pickled.
        error: Name of the class that it raised; None when it returned.
        message: The error's text.
        traceback: All that Python says of it, causes included.
        output: What was written to stdout and stderr, logs and warnings included.
        waits: Seconds that the client wanted to wait between its tries.
    """

    value: Any = None
    error: str | None = None
    message: str = ""
    traceback: str = ""
    output: str = ""
    waits: list[float] = field(default_factory=list)

    def get(self):
        """The value; an error of the call fails the test with its traceback."""
        assert self.error is None, self.traceback
        return self.value


class Worker:
    """Starts the process at the first call."""

    def __init__(self, env):
        self._env, self._process = env, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(30)
            self._process.stdout.close()

    @property
    def pid(self):
        return self._process.pid

    def call(self, module, name, *arguments, **keywords):
        if self._process is None:
            command = [sys.executable, __file__]
            self._process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        _write(self._process.stdin, (module, name, arguments, keywords))
        return Answer(**_read(self._process.stdout))


def _write(stream, value):
    data = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def _read(stream):
    (size,) = struct.unpack("<Q", stream.read(8))
    return pickle.loads(stream.read(size))  # noqa: S301 - from our own child


def _serve():
    answers, calls = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # whatever writes to the descriptor must not disturb the answers
    # Before the import: the client's log handlers keep the stream that they find then.
    output = sys.stdout = sys.stderr = io.StringIO()
    from huggingface_hub.utils import _http

    waits = []
    _http.time = types.SimpleNamespace(sleep=waits.append)
    while True:
        try:
            module, name, arguments, keywords = _read(calls)
        except struct.error:  # the test process closed the pipe
            return
        waits.clear()
        output.seek(0)
        output.truncate()
        answer = _answer(module, name, arguments, keywords)
        _write(answers, answer | {"output": output.getvalue(), "waits": list(waits)})


def _answer(module, name, arguments, keywords):
    answer = {}
    try:
        answer["value"] = getattr(importlib.import_module(module), name)(*arguments, **keywords)
        try:
            pickle.dumps(answer["value"])
        except (pickle.PicklingError, TypeError, AttributeError):
            answer["value"] = repr(answer["value"])
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        text = "".join(traceback.format_exception(error))
        answer = {"error": type(error).__name__, "message": str(error), "traceback": text}
    return answer


if __name__ == "__main__":
    _serve()
