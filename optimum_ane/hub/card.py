"""The model card: what a reader needs to decide and to start, each number from the packages' own reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_ane.errors import CardError
from optimum_ane.hub import card_values
from optimum_ane.hub.card_data import HUB, LIBRARY, card_data
from optimum_ane.hub.card_functions import function_rows, tensors
from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.card_template import render, template_path
from optimum_ane.hub.markdown import block, code, escape
from optimum_ane.hub.picture import caption
from optimum_ane.hub.python import python_snippet
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.hub.swift_tokenizer import is_readable
from optimum_ane.package.card_marker import marked, read_metadata
from optimum_ane.package.layout import CARD_AND_REPORT, PICTURE


def make_card(
    packages: Sequence[CardPackage],
    *,
    repo_id: str | None,
    license: str | None = None,
    template: str | Path | None = None,
) -> str:
    """Renders the card of a repository, a pure function of the packages' JSON files.

    Args:
        packages: The packages of the repository, in any order. The one in the root is described in full, or the first
            by name; the others stand in a table beside it.
        repo_id: The repository; None for a card beside one package on disk, whose `path` is its directory's name.
        license: The Hub's id of the licence; None carries over what the source's card says.
        template: A Jinja2 template of one's own in place of `model_cards/template.md`, which shows what is there to
            be used. It must begin with the metadata: `---`, `{{ card_data }}`, `---`.

    Returns:
        The text of `README.md`, which `is_generated`.

    Raises:
        CardError: The template cannot be read or rendered; the message names its line.
        PackageError: A report holds what no export writes.
        ValueError: No packages.
    """
    if not packages:
        raise ValueError("a card needs at least one package")
    ordered = sorted(packages, key=lambda package: package.path)
    data = card_data(ordered, repo_id=repo_id, license=license)
    path = template_path() if template is None else Path(template)
    values = _values(ordered, repo_id, license)
    text = render(path, data, values)
    head = f"---\n{data.to_yaml()}\n---\n"
    if not text.startswith("---\n") or read_metadata(text) != read_metadata(head):
        raise CardError(f"{path}, line 1: a template begins with the lines ---, {{{{ card_data }}}} and ---")
    body = text.rstrip("\n")
    return marked(body)


def _values(packages: Sequence[CardPackage], repo_id: str | None, license: str | None) -> dict[str, Any]:
    """What a template can use. All text that came with a package is escaped for Markdown."""
    main = packages[0]
    manifest = main.manifest
    picture = caption(packages)
    folder = f"{main.path}/" if main.path and repo_id is not None else ""
    return {
        "title": f"{escape(manifest.source.name.split('/')[-1])} for the Apple Neural Engine",
        "source": _source(main),
        "task": main.task.name,
        "repo_id": repo_id,
        "folder": folder,
        "license": _license(main, license),
        "packages": [_row(package, repo_id) for package in packages],
        "sequence_length": manifest.form.longest,
        "sequence_lengths": manifest.form.sequence_length,
        "modality": main.task.modality,
        "has_cache": manifest.form.has_cache,
        "prefill_length": manifest.form.prefill_length,
        "rows": main.rows,
        "lengths": " or ".join(main.lengths.rsplit(", ", 1)),
        "batch_size": manifest.form.batch_size,
        "precision": manifest.form.precision,
        "compute_units": manifest.form.compute_units,
        "deployment_target": manifest.form.target,
        "systems": main.systems,
        "tensors": tensors(main),
        "image_input": card_values.image_input(main),
        "labels": ", ".join(map(code, main.labels)),
        "functions": function_rows(main),
        "default_function": code(main.default_function.name),
        "prompts": [(code(name), code(prompt)) for name, prompt in main.prompts.items()],
        "default_prompt": code(main.default_prompt),
        "pooling": manifest.form.pooling if manifest.form.pools else None,
        "normalize": manifest.form.normalize,
        "class_labels": manifest.form.class_labels,
        "psnr": {code(name): card_values.decibels(ratio) for name, ratio in main.numbers("package_psnr").items()},
        "accuracy": card_values.accuracy_rows(main),
        "size": card_values.size(main),
        "weights": _megabytes(main.number("sizes", "weights")),
        "compression": card_values.compression(main),
        "method": card_values.method(main),
        "warnings": card_values.warnings(main),
        "operations": f"{sum(main.numbers('operations').values()):.0f}",
        "residency": card_values.residency_rows(main),
        "chip": _chip(main),
        "runtimes": " and ".join(card_values.runtimes(main)),
        "ran_on_apple": "coreml" in card_values.runtimes(main),
        "machine": escape(main.report.get("machine") or "a machine that the report does not name"),
        "versions": ", ".join(f"{escape(name)} {escape(version)}" for name, version in manifest.versions.items()),
        "command": _command(main),
        "picture": None if picture is None else {"file": PICTURE, "caption": escape(picture)},
        "python": block(python_snippet(main, repo_id), "python"),
        "swift": block(swift_snippet(main), "swift"),
        "has_tokenizer": main.has_tokenizer,
        "is_tokenizer_readable_in_swift": main.task.modality != "text" or is_readable(manifest),
        "files": [
            (code(name), code(digest))
            for name, digest in sorted(manifest.files.items())
            if name not in CARD_AND_REPORT
        ],
    }


def _source(package: CardPackage) -> str:
    manifest = package.manifest
    if package.source_id is None:
        return f"{code(manifest.source.name)} (a checkpoint on disk)"
    link = f"[{escape(package.source_id)}]({HUB}/{package.source_id})"
    return f"{link} at revision {code(manifest.source.revision)}" if manifest.source.revision else link


def _license(package: CardPackage, license: str | None) -> str:
    manifest = package.manifest
    name = manifest.source.license_name if license in (None, manifest.source.license) else None
    return escape(name or license or manifest.source.license or "")


def _row(package: CardPackage, repo_id: str | None) -> dict[str, str]:
    manifest = package.manifest
    return {
        "folder": code(package.path) if package.path and repo_id is not None else "the root",
        "task": package.task.name,
        "sequence_length": package.extents,
        "batch_size": str(manifest.form.batch_size),
        "compression": code(manifest.compression) if manifest.compression else manifest.form.precision,
        "size": card_values.size(package),
        "accuracy": card_values.headline(package),
        "drop": card_values.short_drop(package),
        "psnr": card_values.worst_psnr(package),
        "target": manifest.form.target,
    }


def _megabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e6:.1f} MB"


def _chip(package: CardPackage) -> str | None:
    residency = package.report.get("residency")
    chip = residency.get("chip") if isinstance(residency, Mapping) else None
    return escape(chip) if isinstance(chip, str) else None


def _command(package: CardPackage) -> str | None:
    command = package.report.get("command")
    if not isinstance(command, str):
        return None
    return block(command, "python" if command.startswith(f"{LIBRARY.replace('-', '_')}.") else "bash")
