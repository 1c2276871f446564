"""Named arrays on disk, as a person hands them to a package and takes them from it."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optimum_ane.errors import InputError, OutputError
from optimum_ane.package.file_writing import replacing_file
from optimum_ane.runtimes.session import TensorSpec


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Reads inputs from an .npz archive, or from a JSON object of numbers and (nested) lists of them.

    Args:
        path: The file; its suffix tells which of the two it is.

    Returns:
        By name, an array from an archive, and from JSON the number or list as it stands there: a session turns it into
        the type that the package declares.

    Raises:
        InputError: It cannot be read, is neither of the two, or holds something else than numbers.
    """
    path = Path(path)
    if path.suffix.lower() not in (".npz", ".json"):
        raise InputError(f"{path}: inputs are an .npz archive or a .json file")
    try:
        return _read_json(path) if path.suffix.lower() == ".json" else _read_npz(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        # Pickles are code: an archive of inputs may come from anywhere.
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds one array without a name; save the inputs with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not an .npz archive of plain arrays: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise InputError(f"{path} names an input twice: {', '.join(names)}")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error or 'nested too deeply'}") from error
    if not isinstance(content, dict):
        raise InputError(
            f'{path} should hold an object of inputs, {{"name": [[1, 2, 3]]}}, and holds {_kind(content)}'
        )
    for name, value in content.items():
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, list):
                pending += item
            elif not isinstance(item, (int, float)):
                raise InputError(f"{path}: input {name!r} should hold numbers and holds {_kind(item)}")
    return content


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), f"the number {value}")


def random_arrays(specs: Mapping[str, TensorSpec], seed: int) -> dict[str, np.ndarray]:
    """Makes inputs of the declared shapes, the same for the same seed.

    Floats are normally distributed, and those of images the whole numbers of eight bits. Integers are 0 or 1: a
    package does not say how large its vocabulary is, and these two are in every one, and in every mask.

    Args:
        specs: The inputs.
        seed: Which ones.

    Raises:
        InputError: An input is no array of numbers.
    """
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, spec in specs.items():
        if spec.dtype in ("string", "dictionary"):
            raise InputError(f"input {name!r} is a {spec.dtype}, which cannot be made up; give --inputs")
        if spec.image:
            arrays[name] = generator.integers(0, 256, spec.shape).astype(spec.dtype)
            continue
        whole = np.dtype(spec.dtype).kind in "biu"
        numbers = generator.integers(0, 2, spec.shape) if whole else generator.standard_normal(spec.shape)
        arrays[name] = np.asarray(numbers).astype(spec.dtype)
    return arrays


def check_place(path: str | Path) -> None:
    """Refuses a file that cannot be made, before anything is computed for it.

    Raises:
        OutputError: It is a directory, or its directory does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no directory {path.parent} to write {path.name} into; create it first")


def write_arrays(path: str | Path, values: Mapping[str, Any]) -> None:
    """Writes an .npz archive, whole or not at all.

    Args:
        path: The file, whatever its suffix.
        values: Arrays by name. A dictionary, a classifier's probabilities, becomes two arrays, `name.keys` and
            `name.values`; a label an array without axes.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            arrays[f"{name}.keys"], arrays[f"{name}.values"] = np.array([*value]), np.array([*value.values()])
        else:
            arrays[name] = np.asarray(value)
    # Not numpy.savez: it takes names as keywords, and one of its own keywords is a name that a value may have.
    with replacing_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
