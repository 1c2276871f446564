"""What `config.json` says, checked before transformers makes anything of it: it may have been written by anyone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from optimum_ane.errors import CheckpointError

MAX_LABELS = 100_000
"""transformers makes a name for each label before it looks at the weights."""

MAX_LAYERS = 10_000
"""And a module for each layer."""

_SIZES = ("hidden_size", "dim", "embedding_size", "vocab_size")
"""What a model cannot have none of, under the names of the supported architectures."""
_SWITCHES = ("output_hidden_states", "output_attentions", "return_dict", "is_decoder", "add_cross_attention")
"""transformers takes these as they are."""
_LAYERS = ("num_hidden_layers", "n_layers", "num_hidden_groups")


def check_entries(model: str, entries: Mapping[str, Any]) -> None:
    """Refuses entries of which transformers would make a traceback, or more than the memory holds.

    Args:
        model: The Hub id or directory, for the message.
        entries: What the file holds. Types of other entries are checked by transformers.

    Raises:
        CheckpointError: The message names the entry, its value, and what it should be.
    """
    for name, value in entries.items():
        if any(_has_lone_surrogate(text) for text in _texts(value)):
            _refuse(model, name, "holds half a surrogate pair, which no file can", "write the characters out")
    architectures = entries.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        _refuse(model, "architectures", f"is {architectures!r:.60}", "it is a list of names of classes")
    for name in _SIZES:
        if _is_number(entries.get(name)) and not 1 <= entries[name] < 1 << 31:
            _refuse(model, name, f"is {entries[name]!r:.60}", f"it lies between 1 and {(1 << 31) - 1:,}")
    for name in _LAYERS:
        if _is_number(entries.get(name)) and not 0 <= entries[name] <= MAX_LAYERS:
            _refuse(model, name, f"is {entries[name]!r:.60}", f"it is {MAX_LAYERS:,} or less")
    for name in _SWITCHES:
        if not isinstance(entries.get(name, False), bool | None):
            _refuse(model, name, f"is {entries[name]!r:.60}", "it is true or false")
    chunk = entries.get("chunk_size_feed_forward", 0)
    if not _is_number(chunk):
        _refuse(model, "chunk_size_feed_forward", f"is {chunk!r:.60}", "it is a whole number, 0 for no chunks")
    _check_padding(model, entries)
    _check_labels(model, entries)
    _check_parts(model, entries)


def _check_parts(model: str, entries: Mapping[str, Any]) -> None:
    """Refuses as many layers or labels of a part, the decoder say, as of the whole: it is made like one."""
    left = [value for value in entries.values() if isinstance(value, dict)]
    while left:
        part = left.pop()
        left += [value for value in part.values() if isinstance(value, dict)]
        for name in _LAYERS:
            if _is_number(part.get(name)) and not 0 <= part[name] <= MAX_LAYERS:
                _refuse(model, name, f"is {part[name]!r:.60}", f"it is {MAX_LAYERS:,} or less")
        if _is_number(part.get("num_labels")) and part["num_labels"] > MAX_LABELS:
            _refuse(model, "num_labels", f"is {part['num_labels']!r:.60}", f"it is {MAX_LABELS:,} or less")


def _check_padding(model: str, entries: Mapping[str, Any]) -> None:
    padding, vocab_size = entries.get("pad_token_id"), entries.get("vocab_size")
    if not _is_number(padding):
        return
    if padding < 0 or (_is_number(vocab_size) and padding >= vocab_size):
        known = f" and the vocabulary has {vocab_size} words" if _is_number(vocab_size) else ""
        _refuse(model, "pad_token_id", f"is {padding!r:.60}{known}", "it is the id of a word, or null for none")


def _check_labels(model: str, entries: Mapping[str, Any]) -> None:
    count = entries.get("num_labels")
    if count is not None and not (_is_number(count) and 0 <= count <= MAX_LABELS):
        _refuse(model, "num_labels", f"is {count!r:.60}", f"it is a whole number up to {MAX_LABELS:,}")
    names = entries.get("id2label")
    if names is None:
        return
    if not isinstance(names, dict) or len(names) > MAX_LABELS:
        _refuse(model, "id2label", f"is {names!r:.60}", f"it is an object with up to {MAX_LABELS:,} names of labels")
    # JSON's keys are texts; `{"0": …}` and, in a configuration of Python's, {0: …} are the same to transformers.
    known = {*map(str, names)}
    missing = next((index for index in range(len(names)) if str(index) not in known), None)
    if missing is not None:
        _refuse(
            model,
            "id2label",
            f"has {len(names)} labels and none for {missing}",
            "its numbers are 0, 1, … without a gap; add the missing label, or number them anew with label2id",
        )


def _refuse(model: str, name: str, what: str, remedy: str) -> None:
    raise CheckpointError(f"{model}: {name} in config.json {what}; {remedy}")


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _texts(value: Any) -> Iterator[str]:
    """All texts of an entry, keys too."""
    left = [value]  # no recursion: the depth is the file's
    while left:
        entry = left.pop()
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            left += [*entry.keys(), *entry.values()]
        elif isinstance(entry, list):
            left += entry
