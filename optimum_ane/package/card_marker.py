"""The mark on a model card by which one that a person wrote or edited is told from one that we wrote."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

MAX_CARD_BYTES = 1 << 20

_MARKER = re.compile(r"<!-- written by optimum-ane, sha256:([0-9a-f]{64})\.[^>]*-->")
_MARKER_TEXT = (
    "<!-- written by optimum-ane, sha256:{digest}. Once you edit the card, publishing asks before it replaces it. -->"
)


def marked(body: str) -> str:
    """A card with the mark at its end."""
    return f"{body}\n\n{_MARKER_TEXT.format(digest=_digest(body))}\n"


def is_generated(text: str) -> bool:
    """Whether a card is as `marked` gave it: it bears the marker, and nothing else was changed since.

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
    said = json.dumps([read_metadata(unified), lines], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def read_metadata(text: str) -> Any:
    """The metadata at the top of a card; its text where that is not readable or is more than it seems."""
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
