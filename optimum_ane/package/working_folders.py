"""Folders for work under way: named for their process, locked while it works in them, and removed with it.

The name is the identity, so that there is no moment at which a folder has none. The lock serves where a process cannot
be looked up, in another container say; where a disk knows no locks, the name alone counts.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optimum_ane.package import file_operations
from optimum_ane.package.file_trees import remove_tree
from optimum_ane.package.processes import Process
from optimum_ane.package.signals import deferred_signals

TEMPORARY = "optimum-ane-"
"""How names begin in the system's folder for temporary files."""

_MAX_NAME_BYTES = 100
"""Of the name of what is being made; a file system takes 255 in all."""

_UNLOCKED_SECONDS = 60.0
"""Age from which an unlocked folder of another container is nobody's: between making and locking there is a moment."""

_NAME = re.compile(rf".+?{Process.PATTERN}-[0-9a-f]{{8}}\.partial", re.DOTALL)


def partial_name(prefix: str) -> str:
    """A new name for a file or folder that this process works on."""
    prefix = prefix.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    return f"{prefix}{Process.this()}-{secrets.token_hex(4)}.partial"


def partial_path(path: Path) -> Path:
    """A new hidden name beside a path."""
    return path.with_name(partial_name(f".{path.name}."))


class WorkingFolder:
    """A folder of this process, readable by its user alone; removed by `remove`, or when the object or Python ends.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Makes the folder.

        Args:
            path: One of `partial_name`; its parent exists.

        Raises:
            OSError: It cannot be made.
        """
        self.path = path
        with deferred_signals():
            file_operations.make_directory(path, 0o700)
            self._finalizer = weakref.finalize(self, _remove, path, _try_lock(path), os.getpid())

    @classmethod
    def temporary(cls) -> WorkingFolder:
        """Makes one in the system's folder for temporary files; those of dead processes are removed there first.

        Raises:
            OSError: It cannot be made.
        """
        parent = Path(tempfile.gettempdir())
        for each in find_working(parent):
            if each.name.startswith(TEMPORARY):
                remove_if_abandoned(each)
        return cls(parent / partial_name(TEMPORARY))

    def remove(self) -> None:
        """Removes the folder with all that is in it, whatever signals come; what cannot be removed stays."""
        with deferred_signals():
            self._finalizer()

    def keep(self) -> None:
        """Lets the folder be; it counts as abandoned when the process has ended."""
        self._finalizer.detach()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def find_working(parent: Path) -> list[Path]:
    """What lies in a folder, is a process's of ours by its name, and is owned by this user."""
    try:
        with os.scandir(parent) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if _NAME.fullmatch(entry.name)
                and not entry.is_symlink()
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            )
    except OSError:
        return []


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Tells whether the process of what `find_working` found is dead; it is locked meanwhile."""
    lock = None
    try:
        lock = _try_lock(path)
        yield _is_abandoned(path, lock)
    finally:
        if lock is not None and lock.descriptor is not None:
            os.close(lock.descriptor)


def remove_if_abandoned(path: Path) -> bool:
    """Removes a file or folder of `find_working` whose process is dead; tells whether it is gone."""
    with abandoned(path) as is_abandoned:
        return is_abandoned and _discard(path)


@dataclass(frozen=True)
class _Lock:
    """What came of locking: a descriptor that holds the lock, whether another has it, or neither where none can be."""

    descriptor: int | None
    is_taken: bool = False


def _try_lock(path: Path) -> _Lock:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return _Lock(None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return _Lock(None, is_taken=True)
    except OSError:
        os.close(descriptor)
        return _Lock(None)
    return _Lock(descriptor)


def _is_abandoned(path: Path, lock: _Lock) -> bool:
    match = _NAME.fullmatch(path.name)
    if match is None or lock.is_taken:
        return False
    process = Process.of_match(match)
    if process.runs is not None:
        return not process.runs
    if not process.is_of_this_boot or lock.descriptor is None:
        return False
    return time.time() - path.lstat().st_mtime > _UNLOCKED_SECONDS


def _remove(path: Path, lock: _Lock, pid: int) -> None:
    if os.getpid() == pid:  # a copy of the process, by fork, owns nothing of it
        remove_tree(path)
    if lock.descriptor is not None:
        os.close(lock.descriptor)


def _discard(path: Path) -> bool:
    if path.is_dir():
        return remove_tree(path)
    try:
        file_operations.unlink(path)
    except OSError:
        return not path.exists()
    return True
