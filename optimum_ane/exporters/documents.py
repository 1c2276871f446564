"""What a package holds for people: the model card and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_ane.exporters.package import CARD, PackageConfig
from optimum_ane.exporters.report import ExportReport
from optimum_ane.hub.card import PICTURE, CardPackage, make_card, make_picture


def write_documents(
    directory: Path, name: str, config: PackageConfig, report: ExportReport, model_config: Mapping[str, Any]
) -> None:
    """Writes the card and, where there is something to draw, its picture.

    Args:
        directory: The package under way.
        name: What the card calls the package's directory.
        config: What `ane_config.json` will say.
        report: What `export_report.json` says.
        model_config: What `config.json` says.
    """
    package = CardPackage(name, config, report.to_dict(), model_config)
    (directory / CARD).write_text(make_card([package], repo_id=None), encoding="utf-8", newline="\n")
    picture = make_picture([package])
    if picture is not None:
        (directory / PICTURE).write_bytes(picture)
