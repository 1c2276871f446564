"""Casts to Python's numbers, and of constants and complex numbers to other types."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.frontend.torch.ops import _get_inputs
from coremltools.converters.mil.mil import types

from optimum_ane.targets.coreml.translations.register import Translation, replaces


@replaces("int", "bool")
def scalar_cast(context: Any, node: Any, otherwise: Translation) -> None:
    """`int(x)` or `bool(x)`: of a constant of one element here, of anything else as coremltools does it.

    coremltools calls Python's own on an array of one element, which numpy refuses since 2.4 where the array has axes.
    """
    (x,) = _get_inputs(context, node, expected=1)
    if x.can_be_folded_to_const() and np.size(x.val) == 1:
        python_type = int if node.kind == "int" else bool
        context.add(mb.const(val=python_type(np.asarray(x.val).item()), name=node.name))
    else:
        otherwise(context, node)


_COMPLEX = (9, 10)
"""PyTorch's numbers of the complex types."""


@replaces("to", "_to_copy")
def to(context: Any, node: Any, otherwise: Translation) -> None:
    """To another type: of a complex number to its own, and of any constant.

    PyTorch, by which coremltools casts constants, refuses those that have been turned round.
    """
    x = context[node.inputs[0]]
    if types.is_complex(x.dtype):
        _, *rest = _get_inputs(context, node)
        if not any(each is not None and each.val is not None and each.val in _COMPLEX for each in rest[:2]):
            raise NotImplementedError("a cast of complex numbers to real ones")
        context.add(x, torch_name=node.name)
    elif isinstance(x.val, np.ndarray) and any(stride < 0 for stride in x.val.strides):
        plain = copy.copy(node)
        plain.inputs = [f"{node.name}_in_order", *node.inputs[1:]]
        context.add(mb.const(val=np.ascontiguousarray(x.val), name=plain.inputs[0]), torch_name=plain.inputs[0])
        otherwise(context, plain)
    else:
        otherwise(context, node)
