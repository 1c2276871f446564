"""What `ane_config.json` says of the tokenizer, measured on the tokenizer itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.package.manifest import TokenizerEntry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a"


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> TokenizerEntry:
    """Describes a tokenizer for programs that build the inputs without transformers.

    Args:
        tokenizer: The tokenizer.
        directory: Where it was saved; class and algorithm are those of the files there, which such a program reads.
    """
    bare = tokenizer.encode(_PROBE, add_special_tokens=False)
    single = tokenizer.encode(_PROBE)
    leading = next((n for n in range(len(single)) if single[n : n + len(bare)] == bare), 0)
    trailing = max(len(single) - leading - len(bare), 0)
    mask = tokenizer.mask_token
    return TokenizerEntry(
        tokenizer_class=_text(_entries(directory / "tokenizer_config.json").get("tokenizer_class")),
        model=_text(_mapping(_entries(directory / "tokenizer.json").get("model")).get("type")),
        leading=leading,
        trailing=trailing,
        separators=_separators(single, tokenizer.encode(_PROBE, _PROBE), leading, trailing),
        mask_token=None if mask is None else str(mask),
        mask_id=None if mask is None else tokenizer.mask_token_id,
    )


def _separators(single: list[int], pair: list[int], leading: int, trailing: int) -> int | None:
    """How many separators a pair has between the first text with its special tokens and the second one."""
    second = single[leading:]
    count = len(pair) - len(single) - len(second)
    if count < 0 or (count > 0 and trailing == 0):
        return None
    return count if pair == [*single, *single[-1:] * count, *second] else None


def _entries(path: Path) -> dict[str, Any]:
    return _mapping(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
