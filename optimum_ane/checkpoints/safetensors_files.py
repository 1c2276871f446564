"""safetensors files: what they hold by their headers, and one tensor at a time from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from optimum_ane.checkpoints.hub_files import find_file, read_json_object
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By safetensors' own names. What is not here, eight-bit floats say, belongs to quantised weights."""


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor.

    Attributes:
        path: The file.
        shape: Its shape.
        dtype: Its type there.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class SafetensorsFiles(Mapping[str, StoredTensor]):
    """The tensors of one or several files; making it reads the headers alone.

    Args:
        paths: The files.

    Raises:
        CheckpointError: Two files hold a tensor of one name, or one is of a type that weights do not have.
        SafetensorError: A file is truncated or corrupt.
        OSError: A file is missing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stored: dict[str, StoredTensor] = {}
        self._open: dict[Path, Any] = {}
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    self._add(name, path, file.get_slice(name))

    def _add(self, name: str, path: Path, piece: Any) -> None:
        if name in self._stored:
            raise CheckpointError(
                f"{path.name} and {self._stored[name].path.name} both hold {name}; one is out of date"
            )
        dtype = _DTYPES.get(piece.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{path.name} stores {name} as {piece.get_dtype()}, a type of quantised weights; give the original "
                "that was not quantised"
            )
        self._stored[name] = StoredTensor(path, tuple(piece.get_shape()), dtype)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def read(self, name: str) -> Tensor:
        """Reads one tensor, floats as float32.

        What is stored in float32 is a view of the mapped file. Anything else becomes a tensor of its own, and its file
        is mapped only while it is read, so that no more of it stays in memory.
        """
        stored = self._stored[name]
        if stored.dtype == torch.float32:
            if stored.path not in self._open:
                self._open[stored.path] = safe_open(stored.path, framework="pt")
            return self._open[stored.path].get_tensor(name)
        with safe_open(stored.path, framework="pt") as file:
            tensor = file.get_tensor(name)
            return tensor.float() if tensor.is_floating_point() else tensor.clone()

    def close(self) -> None:
        """Lets go of the mapped files; tensors that were read stay valid."""
        self._open.clear()


def find_weight_files(model: str, hub: HubOptions) -> list[Path] | None:
    """Finds the files of a checkpoint's weights, and downloads them where it is on the Hub.

    Returns:
        One file or all those of an index; None where there is neither, and transformers has to look for other formats.

    Raises:
        CheckpointError: The index is damaged, or names a file that is not there.
    """
    single = find_file(model, WEIGHTS, hub)
    if single is not None:
        return [single]
    places = _read_index(model, hub)
    if places is None:
        return None
    files = {name: find_file(model, name, hub) for name in sorted(set(places.values()))}
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise CheckpointError(
            f"{model}: {len(missing)} of the {len(files)} files of weights that {INDEX} names are missing, "
            f"{missing[0]!r:.100} first; download the checkpoint again"
        )
    return [path for path in files.values() if path is not None]


def _read_index(model: str, hub: HubOptions) -> dict[str, str] | None:
    path = find_file(model, INDEX, hub)
    if path is None:
        return None
    index = read_json_object(path)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{path} does not say which file holds which weight; download the checkpoint again")
    if not isinstance(index.get("metadata"), dict):  # transformers wants one, whatever it holds
        raise CheckpointError(f"{path} has no object named metadata; download the checkpoint again")
    return places
