"""ViT-base with random weights: its graph, what its export takes, and the portable runtime beside PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from optimum_ane.analysis.inspection import inspect
from optimum_ane.benchmark.timing import Settings, summarize, time_bursts, times_as_fast
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession
from verification.row import REPOSITORY, Row
from verification.timed_process import OPTIMUM_CLI, run_timed

MOST_OPERATIONS, MOST_REGIONS, MOST_RANK = 660, 2, 4
MOST_SECONDS, MOST_MEMORY = 35.0, 2e9
LEAST_SPEED, ROUNDS = 1.0, 15


def measure(folder: Path) -> Iterator[Row]:
    """Exports one of the shape of google/vit-base-patch16-224 with the command, images as tensors."""
    checkpoint, package = folder / "vit-base", folder / "vit-base-package"
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    model.save_pretrained(checkpoint)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(checkpoint)
    command = [OPTIMUM_CLI, "export", "ane", "--model", checkpoint, package, "--image-input", "tensor"]
    run = run_timed(command, {**os.environ, "PYTHONPATH": str(REPOSITORY)})
    yield Row(
        "export of ViT-base with validation, whole command",
        f"≤ {MOST_SECONDS:.0f} s, ≤ {MOST_MEMORY / 1e9:.0f} GB",
        f"{run.seconds:.1f} s, {run.peak / 1e9:.2f} GB",
        run.seconds <= MOST_SECONDS and run.peak <= MOST_MEMORY,
    )
    yield _graph(package / MLPACKAGE)
    yield _speed(package / MLPACKAGE, model)


def _graph(path: Path) -> Row:
    inspection = inspect(path)
    fallbacks = [each.operation for each in inspection.placements if each.verdict == "fallback"]
    # At the edge a fallback cuts nothing: the engine's work is in one region.
    engine = sum(region.device == "ane" for region in inspection.regions)
    count, regions = len(inspection.placements), len(inspection.regions)
    rank = max(len(value.shape) for each in inspection.placements for value in each.operation.outputs)
    share = inspection.flops_share("ane")
    return Row(
        "graph of ViT-base, 224²",
        f"≤ {MOST_OPERATIONS} operations, ≤ {MOST_REGIONS} regions, rank ≤ {MOST_RANK}, fallbacks at the edges",
        f"{count} operations, {regions} regions, rank {rank}, fallbacks: "
        f"{', '.join(each.type for each in fallbacks) or 'none'}, share {share:.4f}",
        count <= MOST_OPERATIONS and regions <= MOST_REGIONS and rank <= MOST_RANK and engine == 1,
    )


def _speed(path: Path, model: ViTForImageClassification) -> Row:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    session = PortableSession(path)
    given = {"pixel_values": pixels.numpy()}

    def eager() -> object:
        with torch.no_grad():
            return model(pixel_values=pixels).logits

    runs = {"eager": eager, "portable": lambda: session.predict(given)}
    time_bursts(runs, Settings(iterations=2, rounds=2, warmup=0))  # warms up
    times = time_bursts(runs, Settings(iterations=ROUNDS, rounds=ROUNDS, warmup=0))
    torch.set_num_threads(threads)
    ratio = times_as_fast(times["portable"], times["eager"])
    own, theirs = (summarize(times[name]).median_ms for name in ("portable", "eager"))
    return Row(
        "portable runtime, program mode, over eager PyTorch: ViT-base, one thread, in turn",
        f"≥ {LEAST_SPEED} ×",
        f"{ratio:.2f} × ({own:.0f} and {theirs:.0f} ms)",
        ratio >= LEAST_SPEED,
    )
