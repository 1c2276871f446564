"""Other names of operations."""

from __future__ import annotations

import copy
from typing import Any

from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

from optimum_ane.targets.coreml.translations.register import adds

_ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "concatenate": "cat",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "special_erf": "erf",
    "special_expit": "sigmoid",
    "special_softmax": "softmax",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
}


@adds(*_ALIASES)
def alias_of_an_operation(context: Any, node: Any) -> None:
    """Translates an operation as the one that it is another name of."""
    named = copy.copy(node)
    named.kind = _ALIASES[node.kind.removesuffix("_")]
    _TORCH_OPS_REGISTRY.get_func(named.kind)(context, named)
