"""A slice of `scripts/fuzz_portable_programs.py`: random programs against float64 numpy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from optimum_ane.runtimes.portable.registry import OPERATIONS, Operation

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SLICE = range(20_000, 20_050)


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("fuzz_portable_programs", SCRIPTS / "fuzz_portable_programs.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.usefixtures("single_thread")
def test_random_programs(fuzz, tmp_path):
    operations = set()
    for seed in SLICE:
        operations |= {step.text.split()[0] for step in fuzz.check(seed, tmp_path).steps}
    assert len(operations) > 60


def test_the_same_seed_makes_the_same_program(fuzz):
    first, second = fuzz.make(20_003), fuzz.make(20_003)
    assert fuzz.listing(first[0]) == fuzz.listing(second[0])
    for one, other in zip(first[0].exact, second[0].exact, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize(
    ("name", "wrong", "moves"),
    [
        ("gelu", lambda x, mode="EXACT": x * (1.702 * x).sigmoid(), ["gelu"]),
        ("cumsum", lambda x, axis=0, exclusive=False, reverse=False: x.cumsum(axis), ["cumulative"]),
        ("softmax", lambda x, axis=-1: x.softmax(-1), ["softmax"]),
        ("tanh", lambda x: x.tanh() * 1.03, ["unary"]),
    ],
)
def test_a_wrong_operation_is_found(fuzz, tmp_path, monkeypatch, name, wrong, moves):
    right = OPERATIONS[name]
    monkeypatch.setitem(OPERATIONS, name, Operation(name, wrong, right.roles, right.required, right.exact))
    with pytest.raises(fuzz.MismatchError):
        _check_all(fuzz, range(60), tmp_path, moves)


def _check_all(fuzz, seeds, folder, moves):
    for seed in seeds:
        fuzz.check(seed, folder, moves)
