"""What coremltools prints and raises, kept off the screen or explained."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator

from optimum_ane.errors import OutputError


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Explains what coremltools' writer raises when it cannot write: a bare RuntimeError without a reason."""
    try:
        yield
    except RuntimeError as error:
        if "FileWriter" not in str(error) and "filesystem error" not in str(error):
            raise
        directory = tempfile.gettempdir()
        free = shutil.disk_usage(directory).free / 1e6
        raise OutputError(
            f"coremltools could not write the weights to {directory} ({free:.0f} MB free); free some space there or "
            "set TMPDIR to a directory on another disk"
        ) from error


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
