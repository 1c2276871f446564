"""Profiles, and the values in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from portable_programs import save_module

from optimum_ane.errors import InputError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.inspection import Profile, Timing, profile
from optimum_ane.runtimes.portable.recorder import Recorder


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high = torch.split(torch.softmax(self.second(torch.relu(self.first(x))), -1), 4, -1)
        return low * 70000.0 + high


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_module(tmp_path_factory.mktemp("layers") / "layers.mlpackage", Layers(), {"x": torch.rand(2, 8)})


X = {"x": np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)}


def record(package: Path, *patterns: str, precision: str = "program") -> Recorder:
    session = PortableSession(package, precision=precision)  # type: ignore[arg-type]
    recorder = Recorder(patterns, rounded=precision == "program")
    plain = session.predict(X)
    observed = session.predict(X, observer=recorder)
    for name, value in plain.items():
        np.testing.assert_array_equal(observed[name], value)
    return recorder


def test_all_values_are_kept_in_their_types_and_order(package: Path) -> None:
    recorder = record(package, "*")
    recorder.check()
    names = list(recorder.values)
    softmax = next(
        name for name in names if "softmax" in name or recorder.values[name].sum() == pytest.approx(2, 1e-2)
    )
    values = recorder.values
    assert names.index(softmax) < len(names) - 1
    halves = [value for value in values.values() if value.dtype == np.float16]
    assert halves
    assert all(value.flags.c_contiguous for value in values.values())
    assert sum(value.shape == (2, 4) for value in halves) >= 3, "both results of split, and what follows"


def test_rounded_values_are_exact_and_unrounded_are_float32(package: Path) -> None:
    rounded, exact = record(package, "*"), record(package, "*", precision="float32")
    assert rounded.values.keys() == exact.values.keys()
    assert all(value.dtype != np.float16 for value in exact.values.values())
    for name, value in rounded.values.items():
        with np.errstate(over="ignore"):
            expected = exact.values[name].astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(value.astype(np.float32), expected, rtol=1e-2, atol=1e-3)


def test_names_and_patterns(package: Path) -> None:
    names = list(record(package, "*").values)
    chosen = record(package, names[1], "no*such*", names[0][:-1] + "?")
    assert {names[0], names[1]} <= set(chosen.values)
    with pytest.raises(InputError, match=r"named 'no\*such\*'"):
        chosen.check()
    with pytest.raises(InputError, match=f"near it are: .*{names[1]}"):
        record(package, names[1] + "x").check()


def test_repeated_values_are_numbered() -> None:
    recorder = Recorder(["x"], rounded=True)
    for number in range(3):
        recorder.add("x", np.array(number))
        recorder.add("y", np.array(number))
    assert {name: int(value) for name, value in recorder.values.items()} == {"x": 0, "x@2": 1, "x@3": 2}


def test_profile_counts_every_operation(package: Path) -> None:
    session = PortableSession(package)
    result = profile(session, X, runs=3)
    assert result.runs == 3
    assert result.seconds > 0
    kinds = {op: uses for op, uses, _ in result.by_operation()}
    assert kinds["linear"] == 2
    assert kinds["softmax"] == kinds["split"] == 1
    assert sum(kinds.values()) == len(result.timings)
    assert all(timing.seconds > 0 for timing in result.timings)


def test_profile_sums_and_sorts() -> None:
    timings = (Timing("a", "conv", 3.0), Timing("b", "relu", 4.0), Timing("c", "conv", 2.0))
    result = Profile(9.0, 1, timings)
    assert result.by_operation() == [("conv", 2, 5.0), ("relu", 1, 4.0)]
    assert [timing.name for timing in result.slowest(2)] == ["b", "a"]
