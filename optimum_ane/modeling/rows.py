"""Rows of any number and length through a package of one shape: padded, batch by batch, joined again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from optimum_ane.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.package.manifest import PackageConfig
    from optimum_ane.runtimes import Session


def run_rows(
    session: Session, package: PackageConfig, inputs: Mapping[str, Tensor], padding_id: int
) -> dict[str, np.ndarray]:
    """Pads, runs batch by batch, and joins.

    Args:
        session: The loaded package.
        package: Its `ane_config.json`.
        inputs: (N, S) each, S up to the package's length; what the package takes and is not here is made up.
        padding_id: What `input_ids` are padded with.

    Returns:
        Float32 arrays by output name, (N, …) each and of the package's length.

    Raises:
        InputError: The rows are longer than the package, or the shapes do not fit each other.
    """
    padded = _pad(package, inputs, padding_id)
    rows, batch = padded["input_ids"].shape[0], package.batch_size
    tensors = [entry for entry in package.outputs if entry.dtype.startswith("float")]
    results: dict[str, list[np.ndarray]] = {entry.name: [] for entry in tensors}
    for start in range(0, rows, batch):
        chunk = {name: value[start : start + batch] for name, value in padded.items()}
        answer = session.predict({name: _fill_rows(value, batch) for name, value in chunk.items()})
        for name, values in results.items():
            values.append(np.asarray(answer[name], dtype=np.float32)[: len(chunk["input_ids"])])
    empty = {entry.name: np.empty((0, *entry.shape[1:]), np.float32) for entry in tensors}
    return {name: np.concatenate(values) if values else empty[name] for name, values in results.items()}


def _pad(package: PackageConfig, inputs: Mapping[str, Tensor], padding_id: int) -> dict[str, np.ndarray]:
    ids = inputs["input_ids"]
    if ids.ndim != 2:
        raise InputError(f"input_ids has shape {tuple(ids.shape)}; expected rows of token ids, (N, S)")
    if ids.is_floating_point():
        raise InputError(f"input_ids holds {ids.dtype}; expected integers")
    length, longest = ids.shape[1], package.sequence_length
    if length > longest:
        raise InputError(
            f"{length} tokens per row, and this package takes {longest}; tokenize with truncation=True and "
            f"max_length={longest}, or export with --sequence-length {length}"
        )
    padding = {"input_ids": padding_id}
    padded = {}
    for entry in package.inputs:
        value = inputs.get(entry.name)
        if value is None:
            value = torch.ones_like(ids) if entry.name == "attention_mask" else torch.zeros_like(ids)
        if value.shape != ids.shape:
            raise InputError(
                f"{entry.name} has shape {tuple(value.shape)}, input_ids {tuple(ids.shape)}; they must be equal"
            )
        full = np.full((len(ids), longest), padding.get(entry.name, 0), dtype=np.int32)
        full[:, :length] = value.numpy()
        padded[entry.name] = full
    return padded


def _fill_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last row up to a full batch; what it answers is thrown away."""
    return rows if len(rows) == count else np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
