"""A seeded slice of `scripts/fuzz_portable_packages.py`: mutants are answered or refused, and nothing else."""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")

SCRIPTS = str(Path(__file__).parents[3] / "scripts")
MUTANTS = 400


def test_mutants_are_answered_or_refused(tmp_path, monkeypatch, single_thread):
    monkeypatch.syspath_prepend(SCRIPTS)
    import fuzz_portable_packages as fuzzer

    for name in ("MAX_ELEMENTS", "MAX_WORK", "MAX_TURNS", "memory"):  # to be restored
        monkeypatch.setattr(fuzzer.limits, name, getattr(fuzzer.limits, name))
    fuzzer.lower_limits()
    mutator = fuzzer.make_mutator(tmp_path / "corpus")
    counts: collections.Counter[str] = collections.Counter()
    for number, kind, done, says in fuzzer.run(mutator, 7, list(range(MUTANTS)), tmp_path):
        assert kind in fuzzer.CLEAN, f"mutant {number} ({done}): {kind}: {says}"
        counts[kind] += 1
    assert counts.total() == MUTANTS
    assert min(counts["answered"], counts["refused at load"], counts["refused at prediction"]) > 10
