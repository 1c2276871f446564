"""A slice of `scripts/fuzz_rewritten_programs.py`: random programs, rewritten, against float64 numpy."""

import importlib
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_rewritten_programs_mean_what_they_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    fuzz = importlib.import_module("fuzz_rewritten_programs")
    changed = sum(fuzz.check(seed, tmp_path) for seed in range(30_000, 30_010))
    assert changed >= 4
