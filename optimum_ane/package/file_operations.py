"""Every step by which files and folders of ours come into being, are put in place, and go.

They are here, and called by way of this module, so that a test can stop a process at any of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import IO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)
"""What systems and disks answer to a call that they do not know."""


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Makes a folder that is not there."""
    path.mkdir(mode)


def create(path: Path, mode: int = 0o666) -> IO[bytes]:
    """Makes a file that is not there, and opens it for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")


def write(file: IO[bytes], content: bytes) -> None:
    """Writes into an open file."""
    file.write(content)
    file.flush()


def synchronize(path: Path) -> None:
    """Has a file or a folder written to the disk itself; folders on disks that take no such order pass."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _UNKNOWN):
            raise
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Moves a file or folder on one disk; a file, or an empty folder, that is there already is replaced."""
    os.replace(source, target)


def exchange(first: Path, second: Path) -> bool:
    """Lets two folders change places in one step, so that neither is ever absent.

    Returns:
        Whether the system and the disk know how to; where they do not, nothing has happened.

    Raises:
        OSError: They know, and it failed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*paths, _RENAME_SWAP)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def unlink(path: Path) -> None:
    """Removes a file or a link."""
    path.unlink()


def remove_directory(path: Path) -> None:
    """Removes an empty folder."""
    path.rmdir()
