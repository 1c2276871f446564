"""Our translations of PyTorch's operations, and how coremltools gets them for one conversion."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

Translation = Callable[[Any, Any], None]
"""Takes coremltools' context, to which it adds the values that it makes, and a node of the captured graph."""
Replacement = Callable[[Any, Any, Translation], None]
"""Takes coremltools' own translation as well."""

_added: dict[str, Translation] = {}
_replaced: dict[str, Replacement] = {}
_lock = threading.Lock()
"""coremltools has one table of translations for the whole process."""


def adds(*names: str) -> Callable[[Translation], Translation]:
    """Declares a translation of operations which coremltools lacks. A version that knows one is left to it.

    Args:
        names: Of the operations, as coremltools writes them: in lower case, without `aten::`, without the names of
            overloads that make no difference to it, and without the `_` of what is done in place.
    """

    def declare(translation: Translation) -> Translation:
        _added.update(dict.fromkeys(names, translation))
        return translation

    return declare


def replaces(*names: str) -> Callable[[Replacement], Replacement]:
    """Declares a translation in place of coremltools' own, which is its third argument.

    Args:
        names: Of operations, see `adds`; coremltools knows every one.
    """

    def declare(translation: Replacement) -> Replacement:
        _replaced.update(dict.fromkeys(names, translation))
        return translation

    return declare


def is_translated(operation: str) -> bool:
    """Whether there is a translation, coremltools' or ours, of an operation, by the name that PyTorch gives it."""
    kind = sanitize_op_kind(operation)
    return kind in _added or _TORCH_OPS_REGISTRY.get_func(kind) is not None


@contextmanager
def registered() -> Iterator[None]:
    """Gives coremltools every translation that was declared, and leaves its table as it was.

    One thread at a time: a second one waits.
    """
    table = _TORCH_OPS_REGISTRY.name_to_func_mapping
    with _lock:
        before = dict(table)
        try:
            for name, translation in _added.items():
                table.setdefault(name, translation)
            for name, replacement in _replaced.items():
                table[name] = _before(replacement, before[name])
            yield
        finally:
            table.clear()
            table.update(before)


def _before(replacement: Replacement, own: Translation) -> Translation:
    def translate(context: Any, node: Any) -> None:
        replacement(context, node, own)

    return translate
