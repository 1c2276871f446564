"""A package of several lengths beside one of its longest only; see `benchmark_lengths.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import benchmark_lengths

from verification.row import Row, shared

_ROUNDS, _BATCH = 11, 16


def measure(folder: Path) -> Iterator[Row]:
    """Exports both packages of a real checkpoint, scores them on SST-2, and times them in turns."""
    arguments = argparse.Namespace(
        checkpoint=shared("models/distilbert-sst2"),
        dataset=shared("data/sst2/dev.tsv"),
        lengths=[32, 64, 128],
        batch=_BATCH,
        rounds=_ROUNDS,
        threads=[1],
    )
    for what, asked, measured, is_met in benchmark_lengths.targets(benchmark_lengths.measure(arguments, folder)):
        yield Row(f"32, 64 and 128 tokens in one package: {what}", asked, measured, is_met)
