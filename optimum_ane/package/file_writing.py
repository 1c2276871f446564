"""Single files in a user's place: written beside, then put in place, so that no fault destroys what was there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from optimum_ane.errors import OutputError
from optimum_ane.package import file_operations
from optimum_ane.package.recovery import clean
from optimum_ane.package.signals import deferred_signals
from optimum_ane.package.working_folders import partial_path


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file whole, over a former one, or not at all.

    Args:
        path: The file. A link stays, and what it leads to is written.
        content: Text is encoded as UTF-8, its line ends as they are.

    Raises:
        OutputError: It cannot be written; a former file is as it was.
    """
    with replacing_file(path) as file:
        file_operations.write(file, content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Gives a file to write into, which takes the place of `path` when the block ends without an error.

    Terminals, pipes and devices, which cannot be replaced, are written to directly.

    Args:
        path: See `write_file`.

    Raises:
        OutputError: It cannot be written; a former file is as it was.
    """
    path = Path(path)
    try:
        if _is_stream(path):
            with path.open("wb") as file:
                yield file
        else:
            with _replacing(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        if error.errno is None:  # ours: it says what it is
            raise
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; name another file") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    mode = _mode_of(path)
    clean(path.parent)
    partial = partial_path(path)
    try:
        with file_operations.create(partial) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
        file_operations.synchronize(partial)
        file_operations.rename(partial, path)
        file_operations.synchronize(path.parent)
    except BaseException:
        with deferred_signals():
            if partial.exists():
                file_operations.unlink(partial)
        raise


def _mode_of(path: Path) -> int | None:
    """The permissions of a file that is to be replaced; None if there is none.

    Raises:
        OSError: It is a directory, or may not be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.exists():
        return None
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return stat.S_IMODE(path.stat().st_mode)


def _is_stream(path: Path) -> bool:
    """Whether it is a device or a pipe, or a name for a descriptor that is open, which may be of a file."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return True
    absolute = os.path.abspath(path)
    if absolute in ("/dev/stdout", "/dev/stderr"):
        return True
    return os.path.realpath(os.path.dirname(absolute)).startswith(("/proc/", "/dev/fd"))
