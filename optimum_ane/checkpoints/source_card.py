"""What the source's own model card says that a package must carry on: licence, languages, datasets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

_MAX_BYTES = 2_000_000
"""A card with thousands of results in its metadata, as embedders have, is a tenth of this."""
_LICENSE = re.compile(r"[A-Za-z0-9.+-]{1,100}")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
"""What the Hub accepts; it refuses the whole metadata for a `zh-CN`."""
DATASET = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
"""What an id on the Hub looks like, of a dataset or a model."""
_MAX_TEXT = 300


@dataclass(frozen=True)
class SourceCard:
    """The metadata that is carried over; what is absent, malformed or no value that the Hub takes is left out.

    Attributes:
        license: The Hub's id of the licence, `"other"` for one that has none.
        license_name: Its name, where the id is `"other"`.
        license_link: An address, or a file of the repository, where the id is `"other"`.
        languages: ISO 639 codes.
        datasets: Hub ids of datasets.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


def read_source_card(readme: Path | None) -> SourceCard:
    """Reads the metadata of a model card.

    Args:
        readme: The card's file; None or one that is not there has nothing to say.

    Returns:
        What could be read: a card that a person wrote may be malformed, which is no reason to refuse the checkpoint.
    """
    return _from_metadata(_read_metadata(readme))


def read_base_models(readme: Path | None) -> tuple[str, ...]:
    """The Hub ids of the checkpoints that a card says its own was made from, see `read_source_card`."""
    return _texts(_read_metadata(readme).get("base_model"), DATASET)


def _read_metadata(readme: Path | None) -> Mapping[str, Any]:
    if readme is None or not readme.is_file() or readme.stat().st_size > _MAX_BYTES:
        return {}
    try:
        metadata = metadata_load(readme)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return metadata if isinstance(metadata, Mapping) else {}


def _from_metadata(metadata: Mapping[str, Any]) -> SourceCard:
    licenses = _texts(metadata.get("license"), _LICENSE)
    if len(licenses) != 1:
        licenses = ()
    is_other = licenses == ("other",)
    return SourceCard(
        license=licenses[0] if licenses else None,
        license_name=_line(metadata.get("license_name")) if is_other else None,
        license_link=_line(metadata.get("license_link")) if is_other else None,
        # YAML 1.1 reads the code of Norwegian as a truth value.
        languages=_texts(_with_norwegian(metadata.get("language")), LANGUAGE),
        datasets=_texts(metadata.get("datasets"), DATASET),
    )


def _with_norwegian(value: Any) -> Any:
    if isinstance(value, list):
        return ["no" if item is False else item for item in value]
    return "no" if value is False else value


def _texts(value: Any, pattern: re.Pattern[str]) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(item for item in items if isinstance(item, str) and pattern.fullmatch(item)))


def _line(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_TEXT else None
