"""How a package comes into being whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimum_ane.errors import OutputError
from optimum_ane.package.layout import ANE_CONFIG


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses an output that would lose something.

    Raises:
        OutputError: The output is a file, or a directory that is not empty and may not be replaced.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a directory; choose another output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{output} is not empty; choose another output or pass --overwrite")
    if not (output / ANE_CONFIG).is_file():
        raise OutputError(f"{output} is not empty and holds no {ANE_CONFIG}: --overwrite replaces packages only")


@contextmanager
def staged(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary sibling of the output to write into, and renames it when the block ends without an error.

    Whatever ends the block early, Ctrl-C included, the sibling is removed and the output is as it was.

    Args:
        output: The directory to come into being.
        overwrite: Whether a package that is there already may be replaced.

    Raises:
        OutputError: See `check_output`; or the disk is full, or the directory cannot be written.
    """
    check_output(output, overwrite)
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.absolute().parent))
    except OSError as error:
        raise _output_error(output, error) from error
    try:
        content = stage / "content"
        content.mkdir()
        yield content
        check_output(output, overwrite)
        replaced = stage / "replaced"
        if output.exists():
            output.rename(replaced)
        try:
            content.rename(output)
        except BaseException:
            if replaced.exists():
                replaced.rename(output)
            raise
    except shutil.Error as error:
        # A copy of several files: one entry for each that failed, its reason last.
        failed = str(error.args[0][0][-1])
        number = errno.ENOSPC if f"[Errno {errno.ENOSPC}]" in failed else errno.EIO
        raise _output_error(output, OSError(number, failed)) from error
    except OSError as error:
        if error.errno is None:  # ours, or a library's: it says what it is
            raise
        raise _output_error(output, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _output_error(output: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        parent = output.absolute().parent
        free = shutil.disk_usage(parent).free / 1e6 if parent.exists() else 0.0
        return OutputError(f"no space left for {output} ({free:.0f} MB free); free some or choose another disk")
    return OutputError(f"cannot write {output}: {error.strerror or error}")
