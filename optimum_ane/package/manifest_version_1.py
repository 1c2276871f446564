"""`ane_config.json` of version 1, which knew one program of one function, in the entries of version 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_ane.errors import PackageError
from optimum_ane.package.meanings import MEANINGS

_FORM = (
    "task",
    "sequence_length",
    "batch_size",
    "precision",
    "minimum_deployment_target",
    "compute_units",
    "class_labels",
    "pooling",
    "normalize",
)
_SOURCE = (
    "model",
    "name",
    "is_hub",
    "revision",
    "license",
    "license_name",
    "license_link",
    "languages",
    "datasets",
)
_TEXT = ("padding_id", "tokenizer")
_SAME = ("model_type", "labels", "compression", "versions", "files")
_TENSORS = ("inputs", "outputs")


def version_2_of(entries: dict[str, Any], path: Path) -> dict[str, Any]:
    """Arranges the entries of version 1 as version 2 has them; what they hold is checked when these are read.

    Args:
        entries: What the file holds.
        path: The file, for messages.

    Raises:
        PackageError: An entry is missing, or is none of version 1's.
    """
    known = {*_FORM, *(f"source_{name}" for name in _SOURCE), *_TEXT, *_SAME, *_TENSORS, "format_version"}
    unknown = sorted(entries.keys() - known)
    if unknown:
        raise PackageError(f"{path} has unknown entries: {unknown!r:.200}")
    form = {name: entries[name] for name in _FORM if name in entries}
    if "sequence_length" in form:
        form["sequence_length"] = [form["sequence_length"]]
    source = {name: entries[f"source_{name}"] for name in _SOURCE if f"source_{name}" in entries}
    model = source.get("model")
    if isinstance(model, str) and not source.get("name"):
        source["name"] = Path(model).name
    program: dict[str, Any] = {
        "name": "model",
        "functions": [{"name": "main", **{kind: _tensors(entries.get(kind)) for kind in _TENSORS}}],
        **{name: entries[name] for name in ("precision", "compute_units") if name in entries},
    }
    return {
        "form": form,
        "source": source,
        "programs": [program],
        "text": {name: entries[name] for name in _TEXT if name in entries},
        **{name: entries[name] for name in _SAME if name in entries},
    }


def _tensors(tensors: Any) -> Any:
    """Adds the meanings, which version 1 left to the reader, where the entries are what they should be."""
    if not isinstance(tensors, list):
        return tensors
    return [
        {**tensor, "meaning": MEANINGS.get(str(tensor.get("name")), "")} if isinstance(tensor, dict) else tensor
        for tensor in tensors
    ]
