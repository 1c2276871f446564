"""The files of a package and their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from optimum_ane.errors import PackageError
from optimum_ane.package.layout import ANE_CONFIG, CARD_AND_REPORT
from optimum_ane.package.manifest import Manifest


def hash_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file but `ane_config.json` and `CARD_AND_REPORT`, by relative path, sorted."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name not in (ANE_CONFIG, *CARD_AND_REPORT):
            digests[name] = hash_file(path)
    return digests


def verify_files(directory: Path, config: Manifest, names: Iterable[str] | None = None) -> None:
    """Compares files of a package with the SHA-256 that its `ane_config.json` records.

    Symlinks are followed: in the Hub's cache all files are symlinks. `CARD_AND_REPORT` that a package of an earlier
    version lists are passed over.

    Args:
        directory: The package.
        config: Its `ane_config.json`.
        names: Which of the listed files; None stands for all.

    Raises:
        PackageError: A file is missing, is not listed, cannot be read, or does not match; the message names it.
    """
    if not config.files:
        raise PackageError(f"{directory / ANE_CONFIG} lists no files, so nothing can be verified; export it again")
    for name in config.files if names is None else names:
        if name in CARD_AND_REPORT:
            continue
        if name not in config.files:
            raise PackageError(f"{name} is not listed in {directory / ANE_CONFIG}; it is no file of this package")
        path = directory / name
        if not path.is_file():
            raise PackageError(f"{path} is missing, and {ANE_CONFIG} lists it; export or download the package again")
        try:
            digest = hash_file(path)
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
        if digest != config.files[name]:
            raise PackageError(
                f"{path} does not match its SHA-256 in {ANE_CONFIG} ({digest[:12]}…, expected "
                f"{config.files[name][:12]}…): it was changed or damaged; export or download the package again"
            )


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
