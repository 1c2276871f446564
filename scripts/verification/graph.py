"""DistilBERT by its graph beside the hand-written module: answers on SST-2, time of the export, the program's form."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from optimum_ane import export
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.report import ExportReport
from optimum_ane.workflows.evaluate import evaluate_package
from verification.row import Row, shared

RIGHT, ROWS, MARGIN = 775, 872, 1
"""Of the original in PyTorch, at 64 tokens."""
MOST_TIME, MOST_OPERATIONS, MORE_TRANSPOSES, MOST_DECIBELS = 1.3, 1.03, 1, 0.5
_TOKENS, _ROUNDS = 64, 3
_METHODS = ("handwritten", "graph")
_SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
_SIZES = {"distilbert": {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024}}
"""What one calls otherwise."""


def measure(folder: Path) -> Iterator[Row]:
    """Exports distilbert-sst2 both ways by turns, and scores the package that was made by graph."""
    checkpoint, data = shared("models/distilbert-sst2"), shared("data/sst2/dev.tsv")
    seconds: dict[str, list[float]] = {method: [] for method in _METHODS}
    reports: dict[str, ExportReport] = {}
    for _ in range(_ROUNDS):
        for method in _METHODS:
            output = folder / method
            shutil.rmtree(output, ignore_errors=True)
            start = time.perf_counter()
            reports[method] = export(checkpoint, output, sequence_length=_TOKENS, method=method, quiet=True).report
            seconds[method].append(time.perf_counter() - start)
    ratio = statistics.median(graph / hand for hand, graph in zip(*seconds.values(), strict=True))
    middle = ", ".join(f"{method} {statistics.median(found):.1f} s" for method, found in seconds.items())
    yield Row(
        "distilbert-sst2 by graph: time of the export over the hand-written's",
        f"≤ {MOST_TIME}",
        f"{ratio:.2f} ({middle}; {_ROUNDS} turns)",
        ratio <= MOST_TIME,
    )
    yield from _forms("distilbert-sst2", *(reports[method] for method in _METHODS))
    accuracy = evaluate_package(folder / "graph", DatasetSpec(str(data)), with_reference=False)
    right, rows = accuracy.package.right, accuracy.rows
    yield Row(
        "distilbert-sst2 by graph: right on SST-2's validation rows",
        f"{RIGHT} ± {MARGIN} of {ROWS}",
        f"{right} of {rows}",
        rows == ROWS and abs(right - RIGHT) <= MARGIN,
    )
    for model_type in ("bert", "distilbert", "electra", "roberta"):
        yield from _random(model_type, folder)


def _random(model_type: str, folder: Path) -> Iterator[Row]:
    """The same of random weights, every one of them, those of the norms included."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=1000, **_SIZES.get(model_type, _SIZE))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    reports = [
        export(model, folder / f"{model_type}-{method}", sequence_length=128, method=method, quiet=True).report
        for method in _METHODS
    ]
    yield from _forms(f"{model_type}, 4 × 256, random", *reports)


def _forms(name: str, hand: ExportReport, graph: ExportReport) -> Iterator[Row]:
    operations = [sum(report.operations.values()) for report in (hand, graph)]
    ratio = operations[1] / operations[0]
    yield Row(
        f"{name}, by graph: operations over the hand-written's",
        f"≤ {MOST_OPERATIONS}",
        f"{ratio:.3f} ({operations[0]} and {operations[1]})",
        ratio <= MOST_OPERATIONS,
    )
    transposes = [report.operations.get("transpose", 0) for report in (hand, graph)]
    yield Row(
        f"{name}, by graph: transposes",
        f"≤ {transposes[0]} by hand + {MORE_TRANSPOSES}",
        str(transposes[1]),
        transposes[1] <= transposes[0] + MORE_TRANSPOSES,
    )
    decibels = [min(report.package_psnr.values()) for report in (hand, graph)]
    yield Row(
        f"{name}, by graph: PSNR against the original",
        f"≥ {decibels[0]:.1f} dB by hand − {MOST_DECIBELS}",
        f"{decibels[1]:.1f} dB",
        decibels[1] >= decibels[0] - MOST_DECIBELS,
    )
