"""An `.mlpackage` on disk: its manifest, its specification, and the files that a program refers to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf.message import DecodeError

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.blob import WeightFile
from optimum_ane.runtimes.portable.values import Constant, TensorType

_MODEL_PATH = "@model_path/"
_MAX_MANIFEST_BYTES = 2**20
_MAX_MODEL_BYTES = 2**31 - 1  # protobuf reads no more


class Package:
    """An opened package.

    Attributes:
        path: The `.mlpackage` folder.
        folder: Where the specification lies, from which a program names its weight files.
        spec: The parsed `Model` protobuf. It holds an ML Program.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a package.

        Args:
            path: The `.mlpackage` folder.

        Raises:
            PackageError: It is not there, damaged, reaches outside itself, or holds no ML Program.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise PackageError(f"{self.path}: {'not a folder' if self.path.exists() else 'no such'} .mlpackage")
        model = self._model_file()
        self.folder = model.parent
        self._weight_files: dict[str, WeightFile] = {}
        self._constants: dict[tuple[str, int, str, tuple[int, ...]], Constant] = {}
        self.spec = _parse(model)

    def _model_file(self) -> Path:
        """Finds the specification through the manifest."""
        place = self.path / "Manifest.json"
        try:
            manifest = json.loads(_read(self._inside(self.path, place.name, "the package"), _MAX_MANIFEST_BYTES))
            item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        except OSError as error:
            raise PackageError(f"{place}: cannot read the manifest: {error.strerror or error}") from error
        except PackageError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PackageError(f"{place}: not a package manifest ({type(error).__name__}: {error})") from error
        return self._inside(self.path / "Data", item, "the manifest")

    def _inside(self, folder: Path, name: Any, source: str) -> Path:
        """Resolves a path that the package states, and refuses one that leaves the package.

        A symbolic link may point outside in one case: the Hub's cache keeps a repository's files as links from
        `snapshots/<revision>/…` to `blobs/<hash>`.
        """
        if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
            raise PackageError(f"{self.path}: {source} names an impossible file: {name!r}")
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise PackageError(f"{self.path}: {source} names a file outside the package: {name!r}")
        path = folder / relative
        try:
            target, root = path.resolve(strict=True), self.path.resolve()
        except (OSError, RuntimeError) as error:
            raise PackageError(f"{self.path}: {source} names {name!r}, which is missing") from error
        if not target.is_relative_to(root) and target.parent not in _hub_blobs(root):
            raise PackageError(f"{self.path}: {source} names {name!r}, a link to a file outside the package")
        if not target.is_file():
            raise PackageError(f"{self.path}: {source} names {name!r}, which is not a file")
        return path

    def weights(self, file_name: str, offset: int, type_: TensorType, place: str) -> Constant:
        """Returns an array of a weight file; the same array is the same object, whichever function asks for it.

        Args:
            file_name: As the program states it, `@model_path/weights/weight.bin`.
            offset: Where the array's record begins.
            type_: The declared type.
            place: The value's name, for messages.
        """
        key = (file_name, offset, type_.dtype.name, type_.shape)
        if key not in self._constants:
            load = self.weight_file(file_name, place).loader(offset, type_.dtype, type_.shape, place)
            self._constants[key] = Constant(type_, load, in_file=True)
        return self._constants[key]

    def release_pages(self) -> None:
        """Gives back the memory of the weights that were read; see `WeightFile.release_pages`."""
        for file in self._weight_files.values():
            file.release_pages()

    def weight_file(self, file_name: str, place: str) -> WeightFile:
        """Returns a weight file by the name that the program states; `place` is the value's name, for messages."""
        if file_name not in self._weight_files:
            path = self._inside(self.folder, file_name.removeprefix(_MODEL_PATH), repr(place))
            self._weight_files[file_name] = WeightFile(path)
        return self._weight_files[file_name]


def _hub_blobs(root: Path) -> list[Path]:
    """Returns the folders of blobs that belong to a package inside a snapshot of the Hub's cache."""
    return [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]


def _read(path: Path, most: int) -> bytes:
    """Reads a file, and no more of it than there may be: it may have grown since its size was asked for."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A buffer of the most that there may be would be 2 GB for every package.
        data = file.read(size + 1) if size <= most else b""
    if size > most:
        raise PackageError(f"{path}: {size} bytes; at most {most} are read")
    if len(data) != size:
        raise PackageError(f"{path} was changed while it was read; load it again")
    return data


def _parse(path: Path) -> Any:
    """Parses the specification of a model, which must be an ML Program."""
    spec = _model_class()()
    try:
        spec.ParseFromString(_read(path, _MAX_MODEL_BYTES))
    except (OSError, DecodeError) as error:
        raise PackageError(f"{path}: not a Core ML specification: {error}") from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise PackageError(f"{path}: holds {kind or 'nothing'}, not an ML Program; convert to 'mlprogram'")
    return spec


def _model_class() -> Callable[[], Any]:
    """Returns the class of the `Model` protobuf: here and not above, because coremltools takes seconds to import."""
    from coremltools.proto.Model_pb2 import Model

    return Model
