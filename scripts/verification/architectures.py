"""A new architecture: what it takes in lines, and that it answers as the original does in every task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from optimum_ane import export
from optimum_ane.exporters.config import supported_tasks
from optimum_ane.tasks import TASKS
from verification.row import REPOSITORY, Row

MODULE, PACKAGE = 100.0, 55.0
"""dB."""
_SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 160,
    "vocab_size": 200,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LENGTH = 37


def measure(folder: Path) -> Iterator[Row]:
    """Exports small random checkpoints of both architectures, in every task, and compares them with the originals."""
    yield from _architecture(
        "modernbert",
        {"local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
        REPOSITORY / "optimum_ane/models/modernbert.py",
        200,
        folder,
    )
    import verification.rembert as rembert  # the one line outside its file that registers it

    widths = {"input_embedding_size": 32, "output_embedding_size": 144}
    yield from _architecture("rembert", widths, Path(rembert.__file__), 80, folder)


def _architecture(name: str, settings: Mapping[str, Any], path: Path, most_lines: int, folder: Path) -> Iterator[Row]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    yield Row(f"{name}: lines of its file", f"≤ {most_lines}", str(lines), lines <= most_lines)
    modules, packages = {}, {}
    for task in supported_tasks()[name]:
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **_SIZES, **settings)
        model = getattr(transformers, TASKS[task].auto_class).from_config(config).eval()
        report = export(
            model, folder / f"{name}-{task}", task=task, sequence_length=_LENGTH, psnr_threshold=0.0, quiet=True
        ).report
        modules[task] = min(report.module_psnr.values())
        packages[task] = min(report.package_psnr.values())
    for what, found, least in (("module", modules, MODULE), ("float16 package", packages, PACKAGE)):
        worst = min(found, key=found.__getitem__)
        yield Row(
            f"{name}: {what}, the least of {len(found)} tasks",
            f"≥ {least:.0f} dB",
            f"{found[worst]:.1f} dB ({worst})",
            found[worst] >= least,
        )
