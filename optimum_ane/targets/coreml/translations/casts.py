"""Casts to Python's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.frontend.torch.ops import _get_inputs

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
