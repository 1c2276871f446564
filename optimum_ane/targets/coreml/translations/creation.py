"""New tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types

from optimum_ane.targets.coreml.translations.arguments import arguments, type_name
from optimum_ane.targets.coreml.translations.register import adds


@adds("new_ones")
def new_ones(context: Any, node: Any) -> None:
    """`x.new_ones(size, dtype)`: ones of that type, or of x's."""
    x, size, dtype = arguments(context, node, "self", "size", "dtype", "layout", "device", "pin_memory")[:3]
    name = types.builtin_to_string(x.dtype) if dtype is None else type_name(dtype)
    if isinstance(size, list):
        size = mb.concat(values=size, axis=0)
    if size.val is None:
        ones = mb.cast(x=mb.fill(shape=size, value=1.0), dtype=name, name=node.name)
    else:
        # Core ML's fill takes no empty shape, which is what transformers asks for.
        numpy_type = types.nptype_from_builtin(types.string_to_builtin(name))
        ones = mb.const(val=np.ones(tuple(int(n) for n in size.val), numpy_type)[()], name=node.name)
    context.add(ones)
