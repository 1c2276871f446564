"""Whether `ane_config.json` holds what it should: a package may come from a stranger, and its card quotes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.errors import PackageError

if TYPE_CHECKING:
    from optimum_ane.package.manifest import PackageConfig

_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,100}")
"""What names of formats, tensors and tools look like."""
_NAMES = ("task", "model_type", "precision", "minimum_deployment_target", "compute_units")
_OPTIONAL_TEXTS = (
    "source_revision",
    "source_license",
    "source_license_name",
    "source_license_link",
    "pooling",
    "compression",
)


def check_config(config: PackageConfig, path: Path) -> None:
    """Refuses values of other types than declared, and names that are none.

    Free texts (labels, licences, the source's name) may hold anything: who writes them somewhere escapes them.

    Args:
        config: As read.
        path: Where from, for the message.

    Raises:
        PackageError: The first that is wrong; the message names the entry.
    """

    def check(name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PackageError(f"{path}: {name} is {getattr(config, name)!r:.100}, not {expected}")

    for name in ("sequence_length", "batch_size"):
        check(name, _is_count(getattr(config, name)) and getattr(config, name) > 0, "a positive number")
    for name in _NAMES:
        check(name, _is_word(getattr(config, name)), "a name")
    for name in ("source_model", "source_name"):
        check(name, isinstance(getattr(config, name), str), "a name")
    for name in _OPTIONAL_TEXTS:
        check(name, _is_text_or_none(getattr(config, name)), "text")
    for name in ("normalize", "class_labels", "source_is_hub"):
        check(name, isinstance(getattr(config, name), bool), "true or false")
    for name in ("source_languages", "source_datasets", "labels"):
        value = getattr(config, name)
        check(name, isinstance(value, tuple) and all(isinstance(item, str) for item in value), "a list of texts")
    check("padding_id", config.padding_id is None or _is_count(config.padding_id), "a token's id")
    for name in ("inputs", "outputs"):
        tensors = getattr(config, name)
        check(name, all(_is_word(tensor.name) and _is_word(tensor.dtype) for tensor in tensors), "tensors by name")
    for name in ("versions", "files"):
        value = getattr(config, name)
        check(name, isinstance(value, dict) and all(isinstance(v, str) for v in value.values()), "texts by name")
    entry = config.tokenizer
    if entry is not None:
        texts = (entry.tokenizer_class, entry.model, entry.mask_token)
        counts = (entry.leading, entry.trailing, entry.separators or 0, entry.mask_id or 0)
        is_sound = all(map(_is_text_or_none, texts)) and all(map(_is_count, counts))
        check("tokenizer", is_sound, "a description of a tokenizer")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
