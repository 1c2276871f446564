"""How large a model the configuration describes, beside the files of weights: a small file is no large model.

`config.json` may have been written by anyone. A few characters of it ask for a table of sixty million words, or for a
million layers, and transformers makes them before it looks at the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.checkpoints.hub_files import find_file, read_json_object
from optimum_ane.checkpoints.safetensors_files import find_weight_files
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from optimum_ane.checkpoints.hub_options import HubOptions

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_LAYERS = re.compile(r"(^|_)(layers?|blocks|per_block|depths?|hidden_groups|stages|flows|experts|n_layer)$")
"""Entries that count what a model has several of, each with a tensor of its own."""

_FEW_LAYERS = 200
"""That take no time, so that a file that is cut off is called that."""

_NUMBERS_PER_BYTE = 8
"""As many as the densest files hold, of one bit each. What is stored in float32 has a quarter of a number per byte."""

_SMALL = 1 << 22
"""Numbers that any model may have beside those of its files."""

_LARGEST_TABLES = 1 << 26
"""Numbers of tables that modules compute when they are made: positions, rotations and masks."""


def check_declared_layers(model: str, config: PretrainedConfig, weight_bytes: int | None) -> None:
    """Refuses a configuration with more layers than its files can hold, before a model is made of it.

    Args:
        model: Hub id or directory, for the message.
        config: The configuration.
        weight_bytes: Of the files of weights; None where they are not known.

    Raises:
        CheckpointError: The message has the entry and both numbers.
    """
    if weight_bytes is None:
        return
    for name, value in _entries(config.to_dict()):
        counts = value if isinstance(value, list) else [value]
        if not _LAYERS.search(name) or not all(
            isinstance(each, int) and not isinstance(each, bool) for each in counts
        ):
            continue
        # A tensor is described by 40 bytes and more, in the header of safetensors as in a pickle or a GGUF file.
        if sum(max(0, each) for each in counts) > max(weight_bytes // 40, _FEW_LAYERS):
            raise CheckpointError(
                f"{model}: {name} in config.json is {value!r:.60}, and the {weight_bytes:,} bytes of its weights hold "
                "no tensor for each; the configuration is of another model, or hostile: download the checkpoint again"
            )


def check_declared_size(model: str, empty: PreTrainedModel, weight_bytes: int | None) -> None:
    """Refuses a model that is far larger than the files that its weights are read from.

    Args:
        model: Hub id or directory, for the message.
        empty: The model, on torch's meta device.
        weight_bytes: Of the files of weights; None where they are not known.

    Raises:
        CheckpointError: The message has the largest weight and both sizes.
    """
    if weight_bytes is None:
        return
    weights: dict[str, Tensor] = dict(empty.named_parameters())
    declared = sum(weight.numel() for weight in weights.values())
    tables = {name: table for name, table in empty.named_buffers() if table.numel() > 1}
    if declared > _NUMBERS_PER_BYTE * weight_bytes + _SMALL:
        name = max(weights, key=lambda name: weights[name].numel())
        largest = weights[name]
    elif sum(table.numel() for table in tables.values()) > _NUMBERS_PER_BYTE * weight_bytes + _LARGEST_TABLES:
        name = max(tables, key=lambda name: tables[name].numel())
        declared, largest = sum(table.numel() for table in tables.values()), tables[name]
    else:
        return
    raise CheckpointError(
        f"{model}: config.json describes a model of {declared:,} numbers, {name} alone has the shape "
        f"{tuple(largest.shape)}, and the files of its weights have {weight_bytes:,} bytes; the configuration is of "
        "another model, or hostile: download the checkpoint again"
    )


def weight_bytes_of(model: str, hub: HubOptions, gguf_file: str | None = None) -> int | None:
    """Adds the sizes of a checkpoint's files of weights, which are downloaded where it is on the Hub.

    Returns:
        None where there are none of the usual names.

    Raises:
        CheckpointError: An index is damaged, or names a file that is not there.
    """
    if gguf_file is not None:
        return _total([find_file(model, gguf_file, hub)])
    paths = find_weight_files(model, hub)
    if paths is not None:
        return _total(paths)
    single = find_file(model, PICKLED, hub)
    if single is not None:
        return _total([single])
    index = find_file(model, PICKLED_INDEX, hub)
    places = None if index is None else read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        return None
    return _total([find_file(model, name, hub) for name in sorted(set(places.values()))])


def _total(paths: list[Path] | list[Path | None]) -> int | None:
    found = [path for path in paths if path is not None]
    return sum(path.stat().st_size for path in found) if len(found) == len(paths) else None


def _entries(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All entries of a configuration and of those inside it."""
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from ((str(inner), each) for inner, each in _entries(value))
        else:
            yield str(name), value
