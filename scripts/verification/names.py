"""How many operations of a package say which module they are the work of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from optimum_ane import convert_to_ane, export
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable.package import Package
from verification.row import Row

LEAST_SHARE = 0.95
_TASK = "text-classification"


def measure(folder: Path) -> Iterator[Row]:
    """Exports BERT-base with random weights, and looks for the modules' paths in the names of its operations."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig()).eval()
    modules = [path.replace(".", "_") for path, _ in convert_to_ane(model, task=_TASK).named_modules() if path]
    export(model, folder / "out", task=_TASK, validate=False, quiet=True)
    function = Package(folder / "out" / MLPACKAGE).spec.mlProgram.functions["main"]
    operations = [each for each in function.block_specializations[function.opset].operations if each.type != "const"]
    names = [[output.name for output in each.outputs] for each in operations]
    count = sum(all(_names_a_module(name, modules) for name in outputs) for outputs in names)
    yield Row(
        "operations of BERT-base that carry their module's name, of all but constants",
        f"≥ {LEAST_SHARE:.0%}",
        f"{count / len(names):.1%} ({count} of {len(names)}; the rest are hidden states, mask and pooling)",
        count / len(names) >= LEAST_SHARE,
    )


def _names_a_module(name: str, modules: list[str]) -> bool:
    return any(name == module or name.startswith(f"{module}_") for module in modules)
