"""New tensors: whatever is known when the program is made is a constant, of the type that PyTorch gives it."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types

from optimum_ane.targets.coreml.translations.arguments import arguments, constant, integers, type_name
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces

_REST = ("layout", "device", "pin_memory")
_SIGNATURES = {
    "new_ones": ("self", "size", "dtype", *_REST),
    "new_zeros": ("self", "size", "dtype", *_REST),
    "new_full": ("self", "size", "fill_value", "dtype", *_REST),
    "ones_like": ("self", "dtype", *_REST, "memory_format"),
    "zeros_like": ("self", "dtype", *_REST, "memory_format"),
    "full_like": ("self", "fill_value", "dtype", *_REST, "memory_format"),
    "ones": ("size", "dtype", *_REST),
    "zeros": ("size", "dtype", *_REST),
    "full": ("size", "fill_value", "dtype", *_REST),
    "scalar_tensor": ("fill_value", "dtype", *_REST),
}


@adds("new_ones")
def new_ones(context: Any, node: Any) -> None:
    """`x.new_ones(size, dtype)`: ones of that type, or of x's."""
    filled(context, node)


@replaces(*(name for name in _SIGNATURES if name != "new_ones"))
def other_filled(context: Any, node: Any, otherwise: Translation) -> None:
    """The others: of an export coremltools forgets the type."""
    given = dict(zip(_SIGNATURES[node.kind], arguments(context, node, *_SIGNATURES[node.kind]), strict=True))
    sizes = given.get("size")
    is_known = sizes is None or all(_is_known(size) for size in (sizes if isinstance(sizes, list) else [sizes]))
    if is_known and _is_known(given.get("fill_value")):
        filled(context, node)
    else:
        otherwise(context, node)


def filled(context: Any, node: Any) -> None:
    """Adds a tensor that is filled with one number."""
    given = dict(zip(_SIGNATURES[node.kind], arguments(context, node, *_SIGNATURES[node.kind]), strict=True))
    x, dtype, size = given.get("self"), given["dtype"], given.get("size")
    value = constant(given["fill_value"], "what fills a tensor") if "fill_value" in given else int("ones" in node.kind)
    if dtype is not None:
        name = type_name(dtype)
    elif x is not None:
        name = types.builtin_to_string(x.dtype)
    else:
        name = _type_of(value) if "fill_value" in given else "fp32"
    shape: tuple[int, ...]
    if size is None:
        shape = () if x is None else tuple(x.shape)
    elif isinstance(size, list) or size.val is not None:
        shape = tuple(integers(size, "a size"))
    else:
        context.add(mb.cast(x=mb.fill(shape=size, value=float(value)), dtype=name, name=node.name))
        return
    # Core ML's fill takes no empty shape, which is what transformers asks for.
    numpy_type = types.nptype_from_builtin(types.string_to_builtin(name))
    context.add(mb.const(val=np.full(shape, value, numpy_type)[()], name=node.name))


@replaces("arange", "arange.start", "arange.start_step", "linspace")
def sequence(context: Any, node: Any, otherwise: Translation) -> None:
    """Numbers in a row, of an export with the type that it names, which coremltools forgets."""
    dtype = (node.kwinputs or {}).get("dtype")
    if not dtype:
        otherwise(context, node)
        return
    rest = ("dtype", *_REST)
    if node.kind == "linspace":
        start, end, steps = arguments(context, node, "start", "end", "steps", *rest)[:3]
        numbers = np.linspace(constant(start, "a start"), constant(end, "an end"), int(constant(steps, "a number")))
    else:
        count = len(node.inputs)
        names = ("start", "end", "step")[:count] if count > 1 else ("end",)
        bounds = [constant(each, "a bound") for each in arguments(context, node, *names, *rest)[:count]]
        numbers = np.arange(*bounds)
    name = type_name(node.kwinputs.get("dtype")[0])
    numpy_type = types.nptype_from_builtin(types.string_to_builtin(name))
    context.add(mb.const(val=numbers.astype(numpy_type), name=node.name))


@replaces("eye", "eye.m")
def eye(context: Any, node: Any, otherwise: Translation) -> None:
    """The identity, of an export with the type that it names."""
    dtype = (node.kwinputs or {}).get("dtype")
    if not dtype:
        otherwise(context, node)
        return
    names = ("n", "m")[: len(node.inputs)]
    sizes = [int(constant(each, "a size")) for each in arguments(context, node, *names, "dtype", *_REST)[: len(names)]]
    name = type_name(node.kwinputs.get("dtype")[0])
    numpy_type = types.nptype_from_builtin(types.string_to_builtin(name))
    context.add(mb.const(val=np.eye(*sizes, dtype=numpy_type), name=node.name))


def _is_known(value: Any) -> bool:
    return not hasattr(value, "can_be_folded_to_const") or value.can_be_folded_to_const()


def _type_of(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    return "int32" if isinstance(value, int | np.integer) else "fp32"
