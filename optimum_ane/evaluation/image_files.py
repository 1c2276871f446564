"""Datasets of images: a folder with a folder for each class, a folder of images, Parquet, or a dataset of the Hub.

Images are opened one at a time, when they are asked for: what is held of a dataset are names and labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.columns import LABEL_NAMES, Wanted, check_different, find_column, find_optional_column
from optimum_ane.evaluation.dataset_errors import MAX_ROWS, dataset_error, listed, quoted
from optimum_ane.evaluation.datasets import DatasetSpec, open_table, read_rows
from optimum_ane.evaluation.evaluator import Examples
from optimum_ane.evaluation.file_columns import FileColumn, FileKind, file_column, read_file
from optimum_ane.evaluation.files import ParquetFile, Table
from optimum_ane.evaluation.hub_dataset import HubTable
from optimum_ane.evaluation.images import MAX_BYTES, SUFFIXES, open_image
from optimum_ane.evaluation.labels import RawLabels

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "folder"
"""What stands for the column where folders are labels."""

_IMAGES = FileKind("an image", "Image", "--image-column", MAX_BYTES)
_IMAGE_NAMES = ("image", "img", "picture", "pixel_values")


class ImageSource(Protocol):
    """Where the images of a dataset are."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def read(self, row: int) -> bytes:
        """The file of an image; rows count from 0."""
        ...

    def open(self, row: int) -> Image:
        """An image in RGB, turned as its EXIF says; rows count from 0.

        Raises:
            DatasetError: It is damaged or too large; the message names its file or row.
        """
        ...


@dataclass(frozen=True)
class ImageExamples(Examples):
    """Images, ready to be scored.

    Attributes:
        images: N images.
    """

    images: ImageSource

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def digest(self) -> str:
        """SHA-256 of the files and of everything else: the same, the same scores. Reads every file."""
        found = hashlib.sha256()
        for row in range(len(self)):
            found.update(hashlib.sha256(self.images.read(row)).digest())
        found.update(self.hash_fields(leave_out=("images",)).encode())
        return found.hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """What was found under a name.

    Attributes:
        name: What reports and messages call it.
        images: N images.
        labels: Their labels as the dataset holds them; None where it has none.
    """

    name: str
    images: ImageSource
    labels: RawLabels | None


class FolderImages:
    """Images that are files.

    Attributes:
        paths: Of the files, in the order of the rows.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def read(self, row: int) -> bytes:
        """See `ImageSource.read`."""
        return read_file(self.paths[row], MAX_BYTES)

    def open(self, row: int) -> Image:
        """See `ImageSource.open`."""
        return open_image(self.read(row), str(self.paths[row]))


class TableImages:
    """Images that are the files of a column."""

    def __init__(self, files: FileColumn) -> None:
        self._files = files

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._files)

    def read(self, row: int) -> bytes:
        """See `ImageSource.read`."""
        return self._files.read(row)

    def open(self, row: int) -> Image:
        """See `ImageSource.open`."""
        return open_image(self.read(row), self._files.name, row + 1, self._files.column)


def open_images(spec: DatasetSpec, task: str, *, needs_labels: bool) -> ImageDataset:
    """Opens a dataset of images.

    A folder has a folder of images for each class, whose names are the labels, or images alone. Of several classes the
    first image of each comes first, then the second of each, so that `--max-samples` takes of all.

    Args:
        spec: The dataset.
        task: Optimum's name of the task, for messages.
        needs_labels: Whether a dataset without labels is refused.

    Raises:
        DatasetError: It is missing, empty, of another kind, or without labels that are needed.
    """
    spec.check_options(task, "image_column", "label_column")
    spec.check_config()
    path = Path(spec.dataset).expanduser()
    if spec.is_local and path.is_dir():
        return _open_folder(spec, path, needs_labels)
    if spec.is_local and path.suffix.lower() != ".parquet":
        if path.exists():
            what = "images are read from a folder, with a folder for each class, or from a .parquet file"
            raise dataset_error(spec.dataset, what, "name one of them, or a dataset on the Hub")
        raise dataset_error(spec.dataset, "there is no such file or folder", "check the path")
    return _open_table(spec, open_table(spec, lambda cells: False), needs_labels)


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        DatasetError: It cannot be read.
    """
    return [path for path in _entries(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _open_folder(spec: DatasetSpec, folder: Path, needs_labels: bool) -> ImageDataset:
    for option, value in (
        ("--split", spec.split), ("--image-column", spec.image_column), ("--label-column", spec.label_column),
    ):  # fmt: skip
        if value is not None:
            raise dataset_error(spec.dataset, f"{option} says nothing to a folder", "leave it out")
    name = str(folder)
    classes = [path for path in _entries(folder) if path.is_dir()]
    found = {path.name: image_paths(path) for path in classes}
    alone = image_paths(folder)
    if alone and not needs_labels:
        return ImageDataset(name, FolderImages(_checked(name, alone, spec.max_samples)), None)
    empty = next((label for label, paths in found.items() if not paths), None)
    if not found or empty is not None:
        what = "holds no folder of images for each class"
        if empty is not None:
            what = f"the folder {quoted(empty)} of it holds no image"
        remedy = f"a dataset is a folder with a folder of images ({', '.join(SUFFIXES)}) for each class"
        raise dataset_error(name, what, remedy)
    if alone:
        what = f"{alone[0].name} stands beside the folders of the classes"
        raise dataset_error(name, what, "put it into the folder of its class")
    in_turn = zip_longest(*([(path, label) for path in paths] for label, paths in found.items()))
    rows = _checked(name, [row for row in chain.from_iterable(in_turn) if row is not None], spec.max_samples)
    labels = [label for _, label in rows]
    raw = RawLabels(name, FOLDER, range(1, len(rows) + 1), labels)
    return ImageDataset(name, FolderImages([path for path, _ in rows]), raw)


def _open_table(spec: DatasetSpec, table: Table, needs_labels: bool) -> ImageDataset:
    column = find_column(table, Wanted("image", "--image-column", spec.image_column, _IMAGE_NAMES))
    wanted = Wanted("label", "--label-column", spec.label_column, LABEL_NAMES)
    label = find_column(table, wanted) if needs_labels else find_optional_column(table, wanted)
    raw = None
    if label is None:
        count = min(_row_count(table), spec.max_samples or MAX_ROWS)
    else:
        check_different(table, (column, label), "--image-column and --label-column")
        read = [(row, values[0]) for row, values in read_rows(table, [label], spec.max_samples)]
        count = len(read)
        raw = RawLabels(table.name, label, [row for row, _ in read], [value for _, value in read],
                        table.class_names(label))  # fmt: skip
    return ImageDataset(table.name, TableImages(file_column(table, column, count, _IMAGES)), raw)


def _row_count(table: Table) -> int:
    assert isinstance(table, ParquetFile | HubTable)
    return table.row_count


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden entries."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise dataset_error(
            str(folder), f"cannot be read ({error.strerror or error})", "check its permissions"
        ) from error


def _checked(name: str, rows: list[Any], most: int | None) -> list[Any]:
    rows = rows[:most]
    if len(rows) > MAX_ROWS:
        raise dataset_error(
            name, f"more than {MAX_ROWS:,} images, which is the limit", "take fewer with --max-samples"
        )
    return rows


def unknown_folders(name: str, folders: Sequence[str], known: Sequence[str]) -> DatasetError:
    """The error for folders whose names are not all labels of the checkpoint."""
    what = (
        f"the model does not know the labels of the folders {listed(tuple(folders))}; it knows {listed(tuple(known))}"
    )
    return dataset_error(name, what, "name each folder as the checkpoint's config.json names the class")
