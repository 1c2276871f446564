"""Names of files and folders that come from a repository, which anyone may have written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from optimum_ane.errors import PackageError
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.package.manifest import Manifest

MAX_FILES = 256
"""Most files of one package; an exported one has about ten."""

MAX_NAME_CHARACTERS = 512

_CODE = (".py", ".pyc", ".so", ".dylib", ".pkl", ".pickle", ".pt", ".pth")
"""What may run when it is loaded."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_safe_name(name: object) -> bool:
    """Whether a value is a path that stays below the folder it is joined to, on any system.

    It must be relative, with `/` between its parts, none of which is empty, `.` or `..`, and printable.
    """
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        return False
    if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        return False
    return not any(PureWindowsPath(part).anchor for part in name.split("/"))


def check_subfolder(subfolder: str) -> str:
    """Returns the subfolder without a slash at its end; an empty one is the root.

    Raises:
        PackageError: It leads out of the repository.
    """
    folder = subfolder.rstrip("/")
    if folder and not is_safe_name(folder):
        raise PackageError(
            f"subfolder {show(subfolder)} is no folder of a repository; give a relative path without .."
        )
    return folder


def check_files(manifest: Manifest, where: str) -> tuple[str, ...]:
    """Returns the names of a package's files, if they can be fetched without harm.

    Args:
        manifest: What `ane_config.json` says.
        where: What an error calls the package.

    Raises:
        PackageError: There are none or too many, a name leads out of the package, a digest is none, or a program has
            no files.
    """
    files = manifest.files
    advice = "do not load it from a source that you do not trust, or export it again"
    if len(files) > MAX_FILES:
        raise PackageError(f"{where}: {ANE_CONFIG} lists {len(files)} files, the limit is {MAX_FILES}; {advice}")
    for name, digest in files.items():
        if not is_safe_name(name) or name == ANE_CONFIG:
            raise PackageError(f"{where}: {ANE_CONFIG} lists the file name {show(name)}, which is unsafe; {advice}")
        if name.lower().endswith(_CODE):
            raise PackageError(
                f"{where}: {ANE_CONFIG} lists {show(name)}, which is code, and a package never needs any; {advice}"
            )
        if not _DIGEST.fullmatch(digest):
            raise PackageError(f"{where}: {ANE_CONFIG} has no SHA-256 for {show(name)}; {advice}")
    for program in manifest.programs:
        if not any(name.startswith(f"{program.path}/") for name in files):
            raise PackageError(f"{where}: {ANE_CONFIG} lists no file of {program.path}; {advice}")
    return tuple(files)


def check_link(path: Path, directory: Path) -> None:
    """Refuses a file that a link leads to outside of the package, before anything of it is read.

    The Hub's cache is the one exception: its files are links into the `blobs` of the same repository.

    Args:
        path: The file.
        directory: The package.

    Raises:
        PackageError: It leads elsewhere.
    """
    target, places = path.resolve(), [directory.resolve()]
    for parent in (directory.absolute(), *directory.absolute().parents):
        if parent.parent.name == "snapshots":
            places.append((parent.parent.parent / "blobs").resolve())
    if not any(target.is_relative_to(place) for place in places):
        raise PackageError(f"{path} is a link that leads out of the package; put the file itself in its place")


def show(name: object, limit: int = 80) -> str:
    """A name as an error shows it: one line, control characters escaped, shortened."""
    text = repr(name)
    return text if len(text) <= limit else f"{text[:limit]}…"


def show_all(names: Iterable[str], limit: int = 10) -> str:
    """Several names, the first of them if there are many."""
    names = list(names)
    shown = ", ".join(show(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
