"""The model card: what a reader needs to decide and to start, each number from the packages' own reports."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from jinja2 import meta, nodes

from optimum_ane.errors import CardError, PackageError
from optimum_ane.hub import card_values as facts
from optimum_ane.hub.card_data import HUB, LIBRARY, card_data
from optimum_ane.hub.card_values import CardPackage
from optimum_ane.hub.examples import python_snippet
from optimum_ane.hub.markdown import block, code, escape
from optimum_ane.hub.picture import caption, make_picture
from optimum_ane.hub.swift import is_readable, swift_snippet
from optimum_ane.package.layout import DOCUMENTS, PICTURE

__all__ = ["PICTURE", "CardPackage", "is_generated", "make_card", "make_picture", "template_path"]

_MARKER = re.compile(r"<!-- written by optimum-ane, sha256:([0-9a-f]{64})\.[^>]*-->")
_MARKER_TEXT = (
    "<!-- written by optimum-ane, sha256:{digest}. Once you edit the card, publishing asks before it replaces it. -->"
)


def template_path() -> Path:
    """The card's template: beside this file in an installed package, in `model_cards/` in a checkout."""
    installed = Path(__file__).with_name("card_template.md")
    return installed if installed.is_file() else Path(__file__).parents[2] / "model_cards" / "template.md"


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
    text = _render(path, data, values)
    head = f"---\n{data.to_yaml()}\n---\n"
    if not text.startswith("---\n") or _metadata(text) != _metadata(head):
        raise CardError(f"{path}, line 1: a template begins with the lines ---, {{{{ card_data }}}} and ---")
    body = text.rstrip("\n")
    return f"{body}\n\n{_MARKER_TEXT.format(digest=_digest(body))}\n"


def is_generated(text: str) -> bool:
    """Whether a card is as `make_card` wrote it: it bears the marker, and nothing else was changed since.

    What git and the Hub may change on their way does not count: line endings, spaces at the ends of lines, blank lines
    around the card, and the form in which the metadata is written, as long as it says the same.
    """
    markers = list(_MARKER.finditer(text))
    if len(markers) != 1:
        return False
    rest = text[: markers[0].start()] + text[markers[0].end() :]
    return _digest(rest) == markers[0][1]


def _digest(text: str) -> str:
    unified = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    match = REGEX_YAML_BLOCK.search(unified)
    body = unified[match.end() :] if match else unified
    lines = [line.rstrip() for line in body.strip().split("\n")]
    said = json.dumps([_metadata(unified), lines], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def _metadata(text: str) -> Any:
    match = REGEX_YAML_BLOCK.search(text)
    if match is None:
        return None
    try:
        events = yaml.parse(match.group(2), Loader=yaml.SafeLoader)
        # We write none, and a few lines of them stand for gigabytes, or for themselves.
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            return match.group(2)
        return yaml.safe_load(match.group(2))
    except (ValueError, RecursionError, yaml.YAMLError):
        return match.group(2)


def _values(packages: Sequence[CardPackage], repo_id: str | None, license: str | None) -> dict[str, Any]:
    """What a template can use. All text that came with a package is escaped for Markdown."""
    main = packages[0]
    config = main.config
    picture = caption(packages)
    folder = f"{main.path}/" if main.path and repo_id is not None else ""
    return {
        "title": f"{escape(config.source.name.split('/')[-1])} for the Apple Neural Engine",
        "source": _source(main),
        "task": config.form.task,
        "repo_id": repo_id,
        "folder": folder,
        "license": _license(main, license),
        "packages": [_row(package, repo_id) for package in packages],
        "sequence_length": config.form.longest,
        "batch_size": config.form.batch_size,
        "precision": config.form.precision,
        "compute_units": config.form.compute_units,
        "deployment_target": config.form.target,
        "systems": main.systems,
        "tensors": facts.tensors(main),
        "labels": ", ".join(map(code, main.labels)),
        "pooling": config.form.pooling,
        "normalize": config.form.normalize,
        "class_labels": config.form.class_labels,
        "psnr": {code(name): facts.decibels(ratio) for name, ratio in main.numbers("package_psnr").items()},
        "accuracy": facts.accuracy_rows(main),
        "size": facts.size(main),
        "weights": _megabytes(main.number("sizes", "weights")),
        "compression": facts.compression(main),
        "operations": f"{sum(main.numbers('operations').values()):.0f}",
        "residency": facts.residency_rows(main),
        "chip": _chip(main),
        "runtimes": " and ".join(facts.runtimes(main)),
        "ran_on_apple": "coreml" in facts.runtimes(main),
        "machine": escape(main.report.get("machine") or "a machine that the report does not name"),
        "versions": ", ".join(f"{escape(name)} {escape(version)}" for name, version in config.versions.items()),
        "command": _command(main),
        "picture": None if picture is None else {"file": PICTURE, "caption": escape(picture)},
        "python": block(python_snippet(main, repo_id), "python"),
        "swift": block(swift_snippet(main), "swift"),
        "has_tokenizer": main.has_tokenizer,
        "is_tokenizer_readable_in_swift": is_readable(config),
        "files": [
            (code(name), code(digest)) for name, digest in sorted(config.files.items()) if name not in DOCUMENTS
        ],
    }


def _source(package: CardPackage) -> str:
    config = package.config
    if package.source_id is None:
        return f"{code(config.source.name)} (a checkpoint on disk)"
    link = f"[{escape(package.source_id)}]({HUB}/{package.source_id})"
    return f"{link} at revision {code(config.source.revision)}" if config.source.revision else link


def _license(package: CardPackage, license: str | None) -> str:
    config = package.config
    name = config.source.license_name if license in (None, config.source.license) else None
    return escape(name or license or config.source.license or "")


def _row(package: CardPackage, repo_id: str | None) -> dict[str, str]:
    config = package.config
    return {
        "folder": code(package.path) if package.path and repo_id is not None else "the root",
        "task": config.form.task,
        "sequence_length": str(config.form.longest),
        "batch_size": str(config.form.batch_size),
        "compression": code(config.compression) if config.compression else config.form.precision,
        "size": facts.size(package),
        "accuracy": facts.headline(package),
        "drop": facts.short_drop(package),
        "psnr": facts.worst_psnr(package),
        "target": config.form.target,
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


def _render(path: Path, data: Any, values: Mapping[str, Any]) -> str:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: the card's template cannot be read ({error}); give a text file in UTF-8") from error
    try:
        _check_names(path, jinja2.Environment(autoescape=False).parse(source), values)
        return ModelCard.from_template(data, template_str=source, **values).content
    except jinja2.TemplateSyntaxError as error:
        raise CardError(f"{path}, line {error.lineno}: {error.message}") from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        if isinstance(error, CardError | PackageError):
            raise
        raise CardError(f"{path}, line {_line_of(error)}: {' '.join(str(error).split())}") from error


def _check_names(path: Path, tree: nodes.Template, values: Mapping[str, Any]) -> None:
    """Refuses a name that is not among the values: Jinja would leave a gap without a word."""
    unknown = meta.find_undeclared_variables(tree) - values.keys() - {"card_data"}
    for node in tree.find_all(nodes.Name):
        if node.name in unknown:
            known = ", ".join(sorted({*values, "card_data"}))
            raise CardError(f"{path}, line {node.lineno}: there is no {node.name!r}; a card has {known}")


def _line_of(error: BaseException) -> int:
    """The template's line that an error was raised in: Jinja puts it into the traceback."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
