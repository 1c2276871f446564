"""What coremltools prints and raises, kept off the screen or explained."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from optimum_ane.errors import OutputError
from optimum_ane.targets.coreml.temporary_files import temporary_folder

_LITTLE = 2**24
"""Bytes. Where so little is left on a disk, that is why nothing could be written."""


@contextlib.contextmanager
def writing(package: Path | None = None) -> Iterator[None]:
    """Explains what coremltools' writer raises when it cannot write: a bare RuntimeError.

    Args:
        package: The package that is written; None stands for one among the temporary files.

    Raises:
        OSError: The package, or the files in the folder of `temporary_files_in`, could not be written; who chose the
            place can tell what to do.
        OutputError: Those in the system's folder for temporary files could not.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        if not is_write_error(error):
            raise
        place = package.parent if package is not None and str(package) in reason else temporary_folder()
        if place is not None:
            # It copies with a call that tells of a full disk as of any other error.
            number = errno.ENOSPC if shutil.disk_usage(place).free < _LITTLE else errno.EIO
            raise OSError(number, os.strerror(number), str(place)) from error
        directory = tempfile.gettempdir()
        free = shutil.disk_usage(directory).free / 1e6
        raise OutputError(
            f"coremltools could not write the weights to {directory} ({free:.0f} MB free); free some space there or "
            "set TMPDIR to a directory on another disk"
        ) from error


def is_write_error(error: Exception) -> bool:
    """Whether a file could not be written: Python's own error, or the one of coremltools' writer."""
    is_writers = isinstance(error, RuntimeError) and ("FileWriter" in str(error) or "filesystem error" in str(error))
    return is_writers or isinstance(error, OSError)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps coremltools' own bars and notices off the screen; the export has one bar of its own."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
