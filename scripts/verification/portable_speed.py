"""The portable runtime over the matrix products alone, on one thread; see `benchmark_portable.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import benchmark_portable
import torch

from verification.row import Row

_ROUNDS = 25


def measure(folder: Path) -> Iterator[Row]:
    """Times a DistilBERT-base beside its own matrix products, in turns within one process."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    arguments = argparse.Namespace(repeats=_ROUNDS, layers=6, fallback=False)
    result = benchmark_portable.measure(arguments, folder)
    for what, asked, measured, is_met in benchmark_portable.limit_targets(result):
        yield Row(f"DistilBERT-base, 128 tokens: {what}", asked, measured, is_met)
