"""Single files of a checkpoint, in a directory or on the Hub, and the JSON that they hold."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils.hub import has_file as hub_has_file

from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

_MAX_JSON_BYTES = 50_000_000
"""The index of a checkpoint with a hundred thousand tensors is a fifth of this."""


def find_file(model: str, name: str, hub: HubOptions) -> Path | None:
    """Looks for one file of a checkpoint, and downloads it where the checkpoint is on the Hub.

    Args:
        model: Hub id or directory.
        name: Relative to the checkpoint, with forward slashes.
        hub: How to reach the Hub.

    Returns:
        Its path; None where the checkpoint has no such file, or the Hub is out of reach and the cache has none.

    Raises:
        CheckpointError: The name leads out of the checkpoint.
        OSError: The repository cannot be read.
    """
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name:
        raise CheckpointError(f"{model}: the file name {name!r:.100} leads out of the checkpoint; it may be hostile")
    if Path(model).is_dir():
        path = Path(model) / place
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(model, name, revision=hub.revision, cache_dir=hub.cache_dir, token=hub.token))
    except EntryNotFoundError:
        return None


def has_file(model: str, name: str, hub: HubOptions) -> bool:
    """Whether a checkpoint has a file, which is not downloaded; out of the Hub's reach, whether the cache has it."""
    if Path(model).is_dir():
        return (Path(model) / name).is_file()
    return hub_has_file(model, name, revision=hub.revision, token=hub.token, cache_dir=hub.cache_dir)


def is_unknown(model: str, name: str, hub: HubOptions) -> bool:
    """Whether a file that was not found may be there all the same, as the Hub was out of reach.

    The Hub's cache records which files a repository lacks, once the Hub has been asked.
    """
    if Path(model).is_dir():
        return False
    return try_to_load_from_cache(model, name, cache_dir=hub.cache_dir, revision=hub.revision) is None


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        CheckpointError: It is larger than such a file can be, or no JSON.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, which no such file has; download it again")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON; download the checkpoint again") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        CheckpointError: It does not.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object; download the checkpoint again")
    return value
