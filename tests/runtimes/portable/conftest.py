from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from portable_programs import save_program

from optimum_ane.runtimes.portable import PortableSession, limits


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Runs a program built with the MIL builder and returns its outputs in order."""

    def go(
        build: Callable[..., Any], *arrays: np.ndarray, target: Any = ct.target.iOS17, precision: str = "program"
    ) -> list[np.ndarray]:
        inputs = {f"in{i}": array for i, array in enumerate(arrays)}
        path = save_program(tmp_path / "op.mlpackage", build, inputs, target)
        session = PortableSession(path, precision=precision)
        return list(session.predict(inputs).values())

    return go


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240717)


@pytest.fixture
def single_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def capped(monkeypatch):
    """What is to be refused must not take down the machine that tests it."""
    monkeypatch.setattr(limits, "memory", lambda: 2**30)
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
