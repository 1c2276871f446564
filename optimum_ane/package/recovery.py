"""What processes that were killed have left: finished where something was half done, removed where not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimum_ane.package import file_operations
from optimum_ane.package.working_folders import abandoned, find_working, remove_if_abandoned

CONTENT, REPLACED, JOURNAL = "content", "replaced", "replacing"
"""In the working folder of a package: the new one; the old one; and the name of the output, while the former takes the
place of the latter in more than one step."""


@dataclass(frozen=True)
class Cleaning:
    """What was found in a folder.

    Attributes:
        removed: Files and folders of dead processes.
        left: Those whose process runs, or cannot be looked up from here.
        restored: Packages that were put in place.
    """

    removed: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()
    restored: tuple[Path, ...] = ()


def clean(parent: Path, prefix: str = "") -> Cleaning:
    """Removes what dead processes have left in a folder, not in those below it.

    Args:
        parent: The folder.
        prefix: How names begin; whatever is of ours, if empty.
    """
    removed: list[Path] = []
    left: list[Path] = []
    restored: list[Path] = []
    for path in find_working(parent):
        if not path.name.startswith(prefix):
            continue
        try:
            with abandoned(path) as is_abandoned:
                output = finish_replacing(path) if is_abandoned else None
        except OSError:
            left.append(path)  # it may hold the only copy
            continue
        if output is not None:
            restored.append(output)
        (removed if remove_if_abandoned(path) else left).append(path)
    return Cleaning(tuple(removed), tuple(left), tuple(restored))


def finish_replacing(folder: Path) -> Path | None:
    """Puts a package in place where its process died between moving the old one away and the new one there.

    The new one was whole and on the disk before the old one was touched.

    Returns:
        The output that is there again; None where nothing was to be done.

    Raises:
        OSError: It could not be put there.
    """
    journal = folder / JOURNAL
    try:
        name = journal.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not name or "/" in name or name in (".", ".."):
        return None
    output = folder.parent / name
    if output.is_symlink() or output.exists():
        return None
    for found in (folder / CONTENT, folder / REPLACED):
        if found.is_dir() and not found.is_symlink():
            file_operations.rename(found, output)
            file_operations.synchronize(output.parent)
            return output
    return None
