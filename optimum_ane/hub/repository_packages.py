"""What a card needs to know of a package, from a directory or from a repository that anyone may have written."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_ane.errors import PackageError
from optimum_ane.hub.card import CardPackage
from optimum_ane.hub.remote import Remote
from optimum_ane.package.layout import ANE_CONFIG, EXPORT_REPORT
from optimum_ane.package.manifest import Manifest

_MODEL_CONFIG = "config.json"


def read_card_package(path: str, directory: Path) -> CardPackage:
    """Reads a package's JSON files; of those that are missing, only `ane_config.json` must be there.

    Args:
        path: Its folder in the repository.
        directory: Where it is.

    Raises:
        PackageError: One of them is damaged.
    """
    report, model_config = (_read_json(directory / name) for name in (EXPORT_REPORT, _MODEL_CONFIG))
    return CardPackage(path, Manifest.read(directory), report, model_config)


def fetch_card_package(remote: Remote, folder: str) -> CardPackage:
    """The same of a package in a repository.

    Raises:
        PackageError: One of its files is damaged or too large.
        HTTPError: The Hub refused, or cannot be reached.
    """
    with TemporaryDirectory(prefix="optimum-ane-") as copy:
        _fetch(remote, folder, Path(copy), (ANE_CONFIG, EXPORT_REPORT, _MODEL_CONFIG))
        return read_card_package(folder, Path(copy))


def fetch_config(remote: Remote, folder: str) -> Manifest:
    """The `ane_config.json` of a package in a repository.

    Raises:
        PackageError: It is missing, damaged or too large.
        HTTPError: The Hub refused, or cannot be reached.
    """
    with TemporaryDirectory(prefix="optimum-ane-") as copy:
        _fetch(remote, folder, Path(copy), (ANE_CONFIG,))
        return Manifest.read(Path(copy))


def _fetch(remote: Remote, folder: str, copy: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if path in remote.files:
            (copy / name).write_bytes(remote.read(path))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"{path} is damaged: {error}; export it again") from error
    if not isinstance(value, dict):
        raise PackageError(f"{path} is damaged: it should hold an object; export it again")
    return value
