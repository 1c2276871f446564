"""How a package comes into being whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimum_ane.errors import OutputError, PackageError
from optimum_ane.package import file_operations
from optimum_ane.package.card_marker import MAX_CARD_BYTES, is_generated
from optimum_ane.package.file_names import show_all
from optimum_ane.package.file_trees import synchronize_tree
from optimum_ane.package.files import hash_file
from optimum_ane.package.layout import ANE_CONFIG, CARD, CARD_AND_REPORT
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.mlpackage_files import MLPACKAGE_MANIFEST, find_foreign_in_mlpackage
from optimum_ane.package.recovery import CONTENT, JOURNAL, REPLACED, clean
from optimum_ane.package.signals import Interrupted, deferred_signals
from optimum_ane.package.working_folders import WorkingFolder, partial_path

_OF_THE_SYSTEM = (".DS_Store",)
"""What the Finder puts into every folder that it shows."""


def check_output(output: Path, overwrite: bool, sources: Sequence[Path] = (), *, is_mlpackage: bool = False) -> None:
    """Refuses an output that would lose something, before any work; and finishes what a killed run left beside it.

    Args:
        output: The directory to come into being.
        overwrite: Whether a package that is there already may be replaced.
        sources: Directories that are read meanwhile.
        is_mlpackage: Whether it is an `.mlpackage` by itself, which replaces nothing but another `.mlpackage`.

    Raises:
        OutputError: The output is a file, or a directory that is not empty and may not be replaced, or holds what is
            no part of a package; it is the current directory or above it; or it is one of the sources or inside one.
    """
    for source in sources:
        if _is_inside(output, source):
            raise OutputError(f"{output} is {source} or lies in it, which is read meanwhile; choose an output outside")
    clean(output.absolute().parent)
    _check_replaceable(output, overwrite, is_mlpackage)


def _check_replaceable(output: Path, overwrite: bool, is_mlpackage: bool) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a directory; choose another output")
    if not output.exists():
        return
    if _is_inside(Path(os.curdir), output):
        raise OutputError(
            f"{output} is the current directory or holds it, and it would be replaced; name a directory that is new"
        )
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{output} is not empty; choose another output or pass --overwrite")
    listing = MLPACKAGE_MANIFEST if is_mlpackage else ANE_CONFIG
    if not (output / listing).is_file():
        raise OutputError(f"{output} is not empty and holds no {listing}: only packages are overwritten")
    foreign = _foreign(output, is_mlpackage)
    if foreign:
        raise OutputError(
            f"{output} holds {show_all(foreign)}, which overwriting would delete and which {listing} does not "
            "list; move it elsewhere, or choose another output"
        )
    if not is_mlpackage and not _may_replace_card(output):
        raise OutputError(
            f"{output / CARD} was written or edited by a person, and overwriting would delete it; move it elsewhere, "
            "or choose another output"
        )


def _foreign(package: Path, is_mlpackage: bool) -> list[str]:
    return find_foreign_in_mlpackage(package) if is_mlpackage else find_foreign(package)


def find_foreign(package: Path) -> list[str]:
    """What lies in a package's directory and is no part of it: files by name, folders of such files once.

    Of a package whose `ane_config.json` cannot be read, all else is foreign.
    """
    try:
        listed = set(Manifest.read(package).files)
    except PackageError:
        listed = set()
    known = {ANE_CONFIG, *CARD_AND_REPORT, *listed}
    own_folders = {parent.as_posix() for name in known for parent in Path(name).parents}
    found: dict[str, None] = {}
    for directory, folders, files in os.walk(package, onerror=_refuse_unreadable):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        for name in (*files, *links):
            path = Path(directory, name).relative_to(package)
            if name not in _OF_THE_SYSTEM and path.as_posix() not in known:
                place = next((each for each in [*path.parents][::-1] if each.as_posix() not in own_folders), path)
                found[place.as_posix() + ("" if place == path else "/")] = None
    return sorted(found)


def _refuse_unreadable(error: OSError) -> None:
    raise OutputError(
        f"{error.filename} cannot be read ({error.strerror}), so overwriting would delete what is unknown"
    )


def _may_replace_card(package: Path) -> bool:
    """Whether the card is gone or as we wrote it; what is no UTF-8, or long, we have not written."""
    path = package / CARD
    if not path.exists():
        return True
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return False
    return is_generated(path.read_text(encoding="utf-8", errors="replace")) or _is_listed_card(path)


def _is_listed_card(path: Path) -> bool:
    """Whether it is the card that a package of format 1 lists among its files."""
    try:
        return Manifest.read(path.parent).files.get(CARD) == hash_file(path)
    except PackageError:
        return False


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, wherever links lead and however the disk takes capital letters."""
    if not folder.is_dir():
        return False
    resolved = path.resolve()
    return any(each.exists() and each.samefile(folder) for each in (resolved, *resolved.parents))


@contextmanager
def staged(
    output: Path, overwrite: bool = False, sources: Sequence[Path] = (), *, is_mlpackage: bool = False
) -> Iterator[Path]:
    """Gives a folder to write into, hidden beside the output, and puts it in place when the block ends well.

    Whatever ends the block early, Ctrl-C included, the folder is removed and the output is as it was; where the
    process is killed, the next run beside it, or `optimum-cli ane clean`, removes it. A package that is there already
    changes places with the new one in one step, where the system can; else the next run finishes what was begun.

    Args:
        output: The directory to come into being.
        overwrite: Whether a package that is there already may be replaced.
        sources: Directories that are read meanwhile.
        is_mlpackage: See `check_output`.

    Raises:
        OutputError: See `check_output`; or the disk is full, or the directory cannot be written.
        Interrupted: A signal came when the package was in place already.
    """
    check_output(output, overwrite, sources, is_mlpackage=is_mlpackage)
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = WorkingFolder(partial_path(output.absolute()))
    except OSError as error:
        raise _output_error(output, error) from error
    content = folder.path / CONTENT
    try:
        with _explained(output):
            file_operations.make_directory(content)
            yield content
            synchronize_tree(content)
            with deferred_signals() as received:
                _put_in_place(content, output, overwrite, is_mlpackage)
                folder.remove()
                signals = [*received]
                received.clear()
    except BaseException:
        if _holds_the_only_copy(folder.path, output):
            folder.keep()
        else:
            folder.remove()
        raise
    if signals:
        raise Interrupted(signals[0], f"{output} is in place")


def _put_in_place(content: Path, output: Path, overwrite: bool, is_mlpackage: bool) -> None:
    _check_replaceable(output, overwrite, is_mlpackage)  # something may have appeared meanwhile
    if not overwrite or not output.exists() or not any(output.iterdir()):
        try:
            file_operations.rename(content, output)  # of what is not empty the system replaces nothing
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise OutputError(f"{output} came into being just now; choose another output") from error
    elif file_operations.exchange(content, output):
        foreign = _foreign(content, is_mlpackage)
        if foreign:
            file_operations.exchange(content, output)
            raise OutputError(f"{output} was given {show_all(foreign)} just now; move it elsewhere and run again")
    else:
        _replace_in_steps(content, output)
    file_operations.synchronize(output.absolute().parent)


def _replace_in_steps(content: Path, output: Path) -> None:
    """Replaces a package where two folders cannot change places; `finish_replacing` goes on wherever this dies."""
    folder = content.parent
    draft = folder / f"{JOURNAL}.draft"
    with file_operations.create(draft) as file:
        file_operations.write(file, output.absolute().name.encode())
    file_operations.synchronize(draft)
    file_operations.rename(draft, folder / JOURNAL)
    file_operations.synchronize(folder)
    replaced = folder / REPLACED
    file_operations.rename(output, replaced)
    try:
        file_operations.rename(content, output)
    except BaseException:
        file_operations.rename(replaced, output)
        raise


def _holds_the_only_copy(folder: Path, output: Path) -> bool:
    return (folder / REPLACED).exists() and not output.exists()


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except shutil.Error as error:
        # A copy of several files: one entry for each that failed, its reason last.
        failed = str(error.args[0][0][-1])
        number = errno.ENOSPC if f"[Errno {errno.ENOSPC}]" in failed else errno.EIO
        raise _output_error(output, OSError(number, failed)) from error
    except OSError as error:
        if error.errno is None:  # ours, or a library's: it says what it is
            raise
        raise _output_error(output, error) from error


def _output_error(output: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        parent = output.absolute().parent
        free = shutil.disk_usage(parent).free / 1e6 if parent.exists() else 0.0
        return OutputError(f"no space left for {output} ({free:.0f} MB free); free some or choose another disk")
    return OutputError(f"cannot write {output}: {error.strerror or error}")
