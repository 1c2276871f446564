"""A report as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from optimum_ane.errors import OutputError
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.package.file_writing import write_file


def check_writable(output: str | Path) -> None:
    """Refuses an impossible place before minutes are spent on what should be written there.

    Raises:
        OutputError: The directory does not exist, or the path is a directory.
    """
    path = Path(output)
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file for the report")
    if not path.parent.is_dir():
        raise OutputError(f"there is no directory {path.parent} to write {path.name} into; create it first")


def write_report(report: AccuracyReport, output: str | Path) -> None:
    """Writes the report as JSON, over a former one.

    Raises:
        OutputError: It cannot be written.
    """
    write_file(output, json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
