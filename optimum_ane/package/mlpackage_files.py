"""What belongs to an `.mlpackage` by its own manifest, so that overwriting one loses nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from optimum_ane.errors import OutputError

MLPACKAGE_MANIFEST = "Manifest.json"
"""The file of an `.mlpackage` that lists its items, with paths below `Data`."""

_MAX_MANIFEST_BYTES = 2**20
_OF_THE_SYSTEM = (".DS_Store",)
"""What the Finder puts into every folder that it shows."""


def find_foreign_in_mlpackage(package: Path) -> list[str]:
    """What lies in an `.mlpackage` and in none of its items, by name. Of a damaged manifest, all is foreign.

    Raises:
        OutputError: A folder cannot be read, so that it is not known what is in it.
    """
    items = _items(package / MLPACKAGE_MANIFEST)
    found = []
    for directory, folders, files in os.walk(package, onerror=_refuse_unreadable):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        for name in (*files, *links):
            path = Path(directory, name).relative_to(package)
            own = path == Path(MLPACKAGE_MANIFEST) or any(item in (path, *path.parents) for item in items)
            if not own and name not in _OF_THE_SYSTEM:
                found.append(path.as_posix())
    return sorted(found)


def _items(manifest: Path) -> list[Path]:
    try:
        if manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return []
        entries = json.loads(manifest.read_text(encoding="utf-8"))["itemInfoEntries"].values()
        return [Path("Data") / entry["path"] for entry in entries if entry["path"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _refuse_unreadable(error: OSError) -> None:
    raise OutputError(
        f"{error.filename} cannot be read ({error.strerror}), so overwriting would delete what is unknown"
    )
