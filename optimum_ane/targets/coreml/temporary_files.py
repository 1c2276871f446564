"""Where coremltools keeps its temporary files: in a folder of ours, so that they go with it however a process ends.

By itself it makes a folder of weights and one of the package in the system's folder for temporary files, as large as
the model each, and removes the latter when Python ends. `tempfile.tempdir` would move those of all threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from coremltools.converters.mil import converter
from coremltools.models import model, utils

_folder: ContextVar[Path | None] = ContextVar("folder of coremltools' temporary files", default=None)


class _Tempfile:
    """The module `tempfile` for coremltools' modules."""

    def mkdtemp(self, suffix: str | None = None) -> str:
        return tempfile.mkdtemp(suffix, dir=_folder.get())

    def TemporaryDirectory(self) -> tempfile.TemporaryDirectory[str]:  # noqa: N802 - as in `tempfile`
        return tempfile.TemporaryDirectory(dir=_folder.get(), ignore_cleanup_errors=True)

    def NamedTemporaryFile(self, suffix: str | None = None, delete: bool = True) -> Any:  # noqa: N802
        folder = _folder.get()
        # One that outlives the folder would complain that its file is gone.
        return tempfile.NamedTemporaryFile(suffix=suffix, delete=delete and folder is None, dir=folder)


for _module in (converter, model, utils):
    vars(_module)["_tempfile"] = _Tempfile()


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Has coremltools make its temporary files in a folder, which whoever calls removes."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def temporary_folder() -> Path | None:
    """The folder of `temporary_files_in`; None outside of it, where the system's is used."""
    return _folder.get()
