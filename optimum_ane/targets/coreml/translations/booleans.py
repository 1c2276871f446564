"""Logic on flags, and choices by them."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

from optimum_ane.targets.coreml.translations.arguments import arguments
from optimum_ane.targets.coreml.translations.assignment import broadcast
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces

_OPERATIONS = {"and": mb.logical_and, "or": mb.logical_or, "xor": mb.logical_xor}


@adds(
    *(f"{prefix}{name}" for name in _OPERATIONS for prefix in ("", "i", "bitwise_")),
    *(f"__{prefix}{name}__" for name in _OPERATIONS for prefix in ("", "i")),
)
def logic(context: Any, node: Any) -> None:
    """`x & y` and its like, of flags. Of integers it is arithmetic on bits, which programs lack.

    An export looks for the names with underscores, and a translation is found by those without.
    """
    x, y = arguments(context, node, "self", "other")
    if not (types.is_bool(x.dtype) and types.is_bool(y.dtype)):
        raise NotImplementedError(f"{node.kind} of integers: programs have no operations on bits")
    name = node.kind.strip("_").removeprefix("bitwise_")
    operation = _OPERATIONS[name if name in _OPERATIONS else name[1:]]
    context.add(operation(x=x, y=y, name=node.name))


@replaces("where", "where.self", "where.scalarself")
def where(context: Any, node: Any, otherwise: Translation) -> None:
    """The elements of one where a flag is set, and of another elsewhere; either may be a mere number.

    Without the two, it gives indices, which is left to coremltools.
    """
    if len(node.inputs) == 1:
        otherwise(context, node)
        return
    condition, x, y = arguments(context, node, "condition", "self", "other")
    shape = np.broadcast_shapes(*(tuple(each.shape) for each in (condition, x, y)))
    x, y = (broadcast(each, shape) for each in promote_input_dtypes([x, y]))
    condition = broadcast(condition if types.is_bool(condition.dtype) else mb.cast(x=condition, dtype="bool"), shape)
    context.add(mb.select(cond=condition, a=x, b=y, name=node.name))


@adds("where.scalarother", "where.scalar")
def where_numbers(context: Any, node: Any) -> None:
    """The same with other mere numbers, of an export."""
    where(context, node, lambda *_: None)
