"""Our translations of PyTorch's operations, and how coremltools gets them for one conversion."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
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
_OF_NO_CONSEQUENCE = {"device", "layout", "memory_format", "non_blocking", "pin_memory"}
"""Arguments that change where a tensor lies, not what it holds."""
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
        names: Of operations, see `adds`; those that coremltools does not know are passed by.
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
            for name, translation in table.items():
                table[name] = _reading_all(translation)
            for name, replacement in _replaced.items():
                if name in before:
                    table[name] = _before(replacement, table[name])
            yield
        finally:
            table.clear()
            table.update(before)


def _before(replacement: Replacement, own: Translation) -> Translation:
    def translate(context: Any, node: Any) -> None:
        replacement(context, node, own)

    return translate


class _ReadArguments(dict[str, Any]):
    """The arguments of a node that are given by name, and which of them were asked for."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.unread = {name for name, values in given.items() if values not in ((), (None,))}

    def get(self, name: str, default: Any = None) -> Any:
        self.unread.discard(name)
        return super().get(name, default)


def _reading_all(translation: Translation) -> Translation:
    """Refuses a node of an export that has arguments of which the translation knows nothing.

    coremltools' translations were written for traces, in which all arguments are given by position.
    """

    def translate(context: Any, node: Any) -> None:
        if not node.kwinputs:
            translation(context, node)
            return
        checked = copy.copy(node)
        checked.kwinputs = _ReadArguments(node.kwinputs)
        translation(context, checked)
        unread = checked.kwinputs.unread - _OF_NO_CONSEQUENCE
        if unread:
            raise NotImplementedError(f"{node.kind} with {', '.join(sorted(unread))}")

    return translate
