"""Whole folders: written to the disk itself, and removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from optimum_ane.package import file_operations


def synchronize_tree(folder: Path) -> None:
    """Has all files and folders below a folder written to the disk itself, and the folder last.

    Raises:
        OSError: A disk is full or broken, as is found out only now.
    """
    for directory, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink():
                file_operations.synchronize(path)
        file_operations.synchronize(Path(directory))


def remove_tree(folder: Path) -> bool:
    """Removes a folder and what is in it; links are removed and not followed.

    What cannot be removed stays, and all else goes.

    Returns:
        Whether all of it is gone.
    """
    is_gone = True
    for directory, folders, files in os.walk(folder, topdown=False):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        for name in (*files, *links):
            is_gone &= _tried(file_operations.unlink, Path(directory, name))
        is_gone &= _tried(file_operations.remove_directory, Path(directory))
    return is_gone


def _tried(remove: Callable[[Path], None], path: Path) -> bool:
    try:
        remove(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
