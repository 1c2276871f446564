"""A ViT by its graph, with images in, beside the original on every image of a folder for each class."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from optimum_ane import ANEModelForImageClassification, export
from verification.row import Row, shared

LEAST_AGREEMENT, LEAST_SHARE = 0.995, 0.95
_BATCH = 60


def measure(folder: Path) -> Iterator[Row]:
    """Exports the checkpoint, and asks both for the label of each image."""
    checkpoint, images = shared("models/vit-digits"), shared("data/digits")
    begin = time.perf_counter()
    result = export(checkpoint, folder / "package", quiet=True)
    seconds = time.perf_counter() - begin
    ours = ANEModelForImageClassification.from_pretrained(result.path)
    theirs = AutoModelForImageClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(result.path)
    paths = sorted(images.glob("*/*.png"))
    truth = torch.tensor([theirs.config.label2id[path.parent.name] for path in paths])
    original, package = [], []
    for start in range(0, len(paths), _BATCH):
        batch = [Image.open(path).convert("RGB") for path in paths[start : start + _BATCH]]
        pixels = processor(batch, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            original.append(theirs(pixels).logits.argmax(-1))
        package.append(ours(pixels).logits.argmax(-1))
    answers, expected = torch.cat(package), torch.cat(original)
    same, right, theirs_right = (
        int(each.sum()) for each in (answers == expected, answers == truth, expected == truth)
    )
    yield Row(
        "vit-digits by graph: same label as PyTorch",
        f"≥ {LEAST_AGREEMENT:.1%} of {len(paths)}",
        f"{same} of {len(paths)}; right are {right}, in PyTorch {theirs_right}",
        same >= LEAST_AGREEMENT * len(paths),
    )
    share = result.report.residency["flops_share_on_ane"]
    yield Row(
        "vit-digits by graph: share of the arithmetic predicted on the engine",
        f"≥ {LEAST_SHARE}",
        f"{share:.4f}; {sum(result.report.operations.values())} operations, "
        f"{min(result.report.package_psnr.values()):.1f} dB, exported in {seconds:.1f} s",
        share >= LEAST_SHARE,
    )
