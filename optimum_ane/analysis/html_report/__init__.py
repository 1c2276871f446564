"""One self-contained page on a package: what was measured when it was made, and what is predicted of it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from optimum_ane.analysis.html_report import measured, predicted
from optimum_ane.analysis.html_report.parts import Figure, Section
from optimum_ane.analysis.inspection import Inspection
from optimum_ane.charts import DEVICE_COLORS
from optimum_ane.hub.card_package import CardPackage, read_card_package
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.version import __version__


def write_html(path: str | Path, inspection: Inspection, package: str | Path | None = None) -> None:
    """Writes the report: one HTML file without scripts, links or anything from the network.

    Args:
        path: The file to write.
        inspection: What is predicted of the package.
        package: The exported directory, whose `ane_config.json` and `export_report.json` say what was measured; None,
            or a bare `.mlpackage`, leaves those sections out.

    Raises:
        PackageError: One of these files is damaged.
        OutputError: The page cannot be written.
    """
    write_file(path, render_html(inspection, None if package is None else read_package(Path(package))))


def render_html(inspection: Inspection, package: CardPackage | None) -> str:
    """Renders the page; `package` holds what was measured, if anything was."""
    sections = [predicted.residency(inspection), predicted.cost(inspection), predicted.memory(inspection)]
    title, subtitle = inspection.program.path.name, f"function {inspection.program.function}"
    if package is not None:
        manifest = package.manifest
        sections = [
            measured.accuracy(package),
            measured.parity(package),
            measured.functions(package),
            *sections,
            measured.compression(package),
            measured.provenance(package),
        ]
        title = f"{manifest.source.name} for the Apple Neural Engine"
        several = f", predictions of {subtitle}" if len(manifest.functions) > 1 else ""
        subtitle = f"{manifest.form.task}, {package.shape}, {package.systems} and later{several}"
    shown = [section for section in sections if section.parts]
    environment = Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(files(__name__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        colors=DEVICE_COLORS,
        subtitle=f"{subtitle} · optimum-ane {__version__}",
        sections=[_marked(section) for section in shown],
        key_numbers=[number for section in shown for number in section.key_numbers],
    )


def read_package(directory: Path) -> CardPackage | None:
    """Reads what an exported directory says of itself; None where it is a bare `.mlpackage`.

    Raises:
        PackageError: A file is damaged.
    """
    return read_card_package(directory.name, directory) if (directory / ANE_CONFIG).is_file() else None


def _marked(section: Section) -> dict[str, Any]:
    """A section as the template takes it; figures are ours and are not escaped."""
    return {"id": section.id, "title": section.title, "parts": [_part(part) for part in section.parts]}


def _part(part: Any) -> Any:
    return {"kind": part.kind, "svg": Markup(part.svg)} if isinstance(part, Figure) else part
