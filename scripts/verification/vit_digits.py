"""A ViT by its graph, with images in, beside the original on every image of a folder for each class."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from optimum_ane import export
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.workflows.evaluate import evaluate_package
from verification.row import Row, shared

LEAST_AGREEMENT, LEAST_SHARE, LARGEST_DIFFERENCE = 0.995, 0.95, 1


def measure(folder: Path) -> Iterator[Row]:
    """Exports the checkpoint, and scores it beside the original."""
    checkpoint, images = shared("models/vit-digits"), shared("data/digits")
    begin = time.perf_counter()
    result = export(checkpoint, folder / "package", quiet=True)
    seconds = time.perf_counter() - begin
    report = evaluate_package(result.path, DatasetSpec(str(images)), runtime="portable")
    assert report.original is not None
    assert report.agreement is not None
    right, of_original = report.package.right or 0, report.original.right or 0
    yield Row(
        "vit-digits by graph: right on the digits",
        f"{of_original} ± {LARGEST_DIFFERENCE} of {report.rows}, as in PyTorch",
        f"{right} of {report.rows}",
        abs(right - of_original) <= LARGEST_DIFFERENCE,
    )
    yield Row(
        "vit-digits by graph: same label as PyTorch",
        f"≥ {LEAST_AGREEMENT:.1%}",
        f"{report.agreement:.2%}; logits {report.psnr:.1f} dB",
        report.agreement >= LEAST_AGREEMENT,
    )
    share = result.report.residency["flops_share_on_ane"]
    yield Row(
        "vit-digits by graph: share of the arithmetic predicted on the engine",
        f"≥ {LEAST_SHARE}",
        f"{share:.4f}; {sum(result.report.operations.values())} operations, "
        f"{min(result.report.package_psnr.values()):.1f} dB, exported in {seconds:.1f} s",
        share >= LEAST_SHARE,
    )
