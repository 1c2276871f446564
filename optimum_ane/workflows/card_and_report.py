"""What a package holds for people: the model card with its picture, and the report as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_ane.analysis.html_report import render_html
from optimum_ane.analysis.inspection import Inspection
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import CardPackage, read_generation_config
from optimum_ane.hub.picture import make_picture
from optimum_ane.package.layout import CARD, HTML_REPORT, PICTURE
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.report import ExportReport


def write_card_and_report(
    directory: Path,
    name: str,
    manifest: Manifest,
    report: ExportReport,
    model_config: Mapping[str, Any],
    inspection: Inspection,
) -> None:
    """Writes the card, its picture where there is something to draw, and the report as a page.

    Args:
        directory: The package under way.
        name: What the card calls the package's directory.
        manifest: What `ane_config.json` says, the digests of the files included.
        report: What `export_report.json` says.
        model_config: What `config.json` says.
        inspection: What is predicted of the program.
    """
    package = CardPackage(name, manifest, report.to_dict(), model_config, read_generation_config(directory))
    (directory / CARD).write_text(make_card([package], repo_id=None), encoding="utf-8", newline="\n")
    picture = make_picture([package])
    if picture is not None:
        (directory / PICTURE).write_bytes(picture)
    (directory / HTML_REPORT).write_text(render_html(inspection, package), encoding="utf-8")
