"""Packages of a repository, as far as a card needs to know them; anyone may have written them."""

from __future__ import annotations

from pathlib import Path

from optimum_ane.hub.card_package import MODEL_CONFIG, CardPackage, read_card_package
from optimum_ane.hub.remote import Remote
from optimum_ane.package.layout import ANE_CONFIG, EXPORT_REPORT
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.working_folders import WorkingFolder


def fetch_card_package(remote: Remote, folder: str) -> CardPackage:
    """Reads the JSON files of a package in a repository.

    Raises:
        PackageError: One of its files is damaged or too large.
        HTTPError: The Hub refused, or cannot be reached.
    """
    with WorkingFolder.temporary() as copy:
        _fetch(remote, folder, copy, (ANE_CONFIG, EXPORT_REPORT, MODEL_CONFIG))
        return read_card_package(folder, copy)


def fetch_manifest(remote: Remote, folder: str) -> Manifest:
    """Reads the `ane_config.json` of a package in a repository.

    Raises:
        PackageError: It is missing, damaged or too large.
        HTTPError: The Hub refused, or cannot be reached.
    """
    with WorkingFolder.temporary() as copy:
        _fetch(remote, folder, copy, (ANE_CONFIG,))
        return Manifest.read(copy)


def _fetch(remote: Remote, folder: str, copy: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if path in remote.files:
            (copy / name).write_bytes(remote.read(path))
