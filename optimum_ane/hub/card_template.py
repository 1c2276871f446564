"""The template of a card, ours or a user's own: where it is, and how it is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import meta, nodes

from optimum_ane.errors import CardError, PackageError


def template_path() -> Path:
    """The card's template: beside this file in an installed package, in `model_cards/` in a checkout."""
    installed = Path(__file__).with_name("card_template.md")
    return installed if installed.is_file() else Path(__file__).parents[2] / "model_cards" / "template.md"


def render(path: Path, data: ModelCardData, values: Mapping[str, Any]) -> str:
    """Fills a template in.

    Args:
        path: The template; Jinja2.
        data: The metadata, its `card_data`.
        values: Everything else that it may name.

    Raises:
        CardError: It cannot be read or rendered; the message names its line.
        PackageError: A report holds what no export writes.
    """
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
