"""Arithmetic element by element, and reductions."""

from __future__ import annotations

import copy
from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.frontend.torch.utils import NUM_TO_DTYPE_STRING
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

from optimum_ane.targets.coreml.translations.arguments import add_results, arguments, constant, integers
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces


@replaces("add", "sub")
def add_scaled(context: Any, node: Any, otherwise: Translation) -> None:
    """`x + alpha * y`: of an export coremltools forgets the factor, of a trace it refuses one."""
    if node.kwinputs is None and len(node.inputs) < 3:
        otherwise(context, node)
        return
    _, y, alpha = arguments(context, node, "self", "other", "alpha")
    factor = 1 if alpha is None else constant(alpha, "the factor of a sum")
    plain = copy.copy(node)
    plain.kwinputs, plain.inputs = None, list(node.inputs[:2])
    if factor != 1:
        y, factor = promote_input_dtypes([y, factor])
        scaled = f"{node.name}_scaled"
        context.add(mb.mul(x=y, y=factor, name=scaled), torch_name=scaled)
        plain.inputs[1] = scaled
    otherwise(context, plain)


@replaces("div", "divide", "floor_divide", "floordiv")
def divide_integers(context: Any, node: Any, otherwise: Translation) -> None:
    """A division of integers that is rounded, in integers.

    coremltools makes floating numbers of them, which in float16 are exact to 2,048 only.
    """
    x, y, mode = arguments(context, node, "self", "other", "rounding_mode")
    rounding = (
        "floor" if node.kind.startswith("floor") else None if mode is None else str(constant(mode, "a rounding"))
    )
    if rounding is None or not (types.is_int(x.dtype) and types.is_int(y.dtype)):
        otherwise(context, node)
    elif rounding == "floor":
        context.add(mb.floor_div(x=x, y=y, name=node.name))
    else:
        whole = mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y))
        context.add(mb.mul(x=whole, y=mb.mul(x=mb.sign(x=x), y=mb.sign(x=y)), name=node.name))


@replaces("reciprocal")
def reciprocal(context: Any, node: Any, otherwise: Translation) -> None:
    """`1 / x`, to which coremltools adds 1e-4 in the denominator."""
    (x,) = arguments(context, node, "self")
    context.add(mb.real_div(x=1.0, y=_as_float(x), name=node.name))


@adds("trunc", "fix")
def trunc(context: Any, node: Any) -> None:
    """Rounds towards zero."""
    (x,) = arguments(context, node, "self")
    context.add(_truncated(x, node.name))


@adds("fmod")
def fmod(context: Any, node: Any) -> None:
    """The remainder of a division that is rounded towards zero."""
    x, y = arguments(context, node, "self", "other")
    x, y = promote_input_dtypes([_as_float(x), y])
    whole = _truncated(mb.real_div(x=x, y=y))
    context.add(mb.sub(x=x, y=mb.mul(x=whole, y=y), name=node.name))


@adds("addcmul", "addcdiv")
def add_product(context: Any, node: Any) -> None:
    """`x + value * y * z`, or with a quotient."""
    x, y, z, value = arguments(context, node, "self", "tensor1", "tensor2", "value")
    x, y, z = promote_input_dtypes([x, y, z])
    product = mb.mul(x=y, y=z) if node.kind == "addcmul" else mb.real_div(x=y, y=z)
    factor = 1 if value is None else constant(value, "the factor of a sum")
    if factor != 1:
        product = mb.mul(x=product, y=float(factor))
    context.add(mb.add(x=x, y=product, name=node.name))


@adds("lerp")
def lerp(context: Any, node: Any) -> None:
    """`start + weight * (end - start)`."""
    start, end, weight = arguments(context, node, "self", "end", "weight")
    start, end, weight = promote_input_dtypes([start, end, weight])
    context.add(mb.add(x=start, y=mb.mul(x=weight, y=mb.sub(x=end, y=start)), name=node.name))


@adds("erfc")
def erfc(context: Any, node: Any) -> None:
    """`1 - erf(x)`."""
    (x,) = arguments(context, node, "self")
    context.add(mb.sub(x=1.0, y=mb.erf(x=x), name=node.name))


@adds("log_sigmoid")
def log_sigmoid(context: Any, node: Any) -> None:
    """`log(sigmoid(x))` as `min(x, 0) - log(1 + exp(-|x|))`, which holds for any x."""
    (x,) = arguments(context, node, "self")
    tail = mb.log(x=mb.add(x=1.0, y=mb.exp(x=mb.mul(x=mb.abs(x=x), y=-1.0))))
    context.add(mb.sub(x=mb.minimum(x=x, y=0.0), y=tail, name=node.name))


@adds("prod", "prod.dim_int")
def prod(context: Any, node: Any) -> None:
    """The product over one axis, or over all."""
    names = ("self", "dtype") if _is_of_all(node) else ("self", "dim", "keepdim", "dtype")
    given = dict(zip(names, arguments(context, node, *names), strict=True))
    if given["dtype"] is not None:
        raise NotImplementedError("a product in another type")
    axes = None if "dim" not in given else integers(given["dim"], "the axis of a product")
    keeps = False if given.get("keepdim") is None else bool(constant(given["keepdim"], "whether an axis is kept"))
    context.add(mb.reduce_prod(x=given["self"], axes=axes, keep_dims=keeps, name=node.name))


def _is_of_all(node: Any) -> bool:
    """Whether a reduction is of all axes: a trace gives two arguments, an export one."""
    return len(node.inputs) <= (2 if node.meta is None else 1)


@adds("var_mean", "std_mean", "var_mean.correction", "std_mean.correction", "var_mean.dim", "std_mean.dim")
def variance_and_mean(context: Any, node: Any) -> None:
    """The variance, or its root, and the mean over axes."""
    x, axes, third, fourth = arguments(context, node, "self", "dim", "correction", "keepdim")
    if axes is None:
        raise NotImplementedError(f"{node.kind} of all axes")
    axes = [axis % x.rank for axis in integers(axes, "the axes of a variance")]
    correction = (
        1 if third is None else int(constant(third, "the correction of a variance"))
    )  # False for unbiased=False
    keeps = False if fourth is None else bool(constant(fourth, "whether an axis is kept"))
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    mean = mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    centred = mb.sub(x=x, y=mean)
    squares = mb.reduce_sum(x=mb.mul(x=centred, y=centred), axes=axes, keep_dims=keeps)
    spread = mb.mul(x=squares, y=1.0 / (count - correction))
    if node.kind.startswith("std"):
        spread = mb.sqrt(x=spread)
    add_results(context, node, spread, mean if keeps else mb.squeeze(x=mean, axes=axes))


@adds("diff")
def diff(context: Any, node: Any) -> None:
    """The differences of neighbours along an axis, n times over; of flags, whether they differ."""
    x, n, dim, before, after = arguments(context, node, "self", "n", "dim", "prepend", "append")
    axis = (-1 if dim is None else int(constant(dim, "the axis of differences"))) % x.rank
    parts = [part for part in (before, x, after) if part is not None]
    if len(parts) > 1:
        x = mb.concat(values=promote_input_dtypes(parts), axis=axis)
    for _ in range(1 if n is None else int(constant(n, "how often differences are taken"))):
        begin, end = [0] * x.rank, list(x.shape)
        begin[axis], end[axis] = 1, x.shape[axis] - 1
        later = mb.slice_by_index(x=x, begin=begin, end=list(x.shape))
        earlier = mb.slice_by_index(x=x, begin=[0] * x.rank, end=end)
        differ = mb.not_equal if types.is_bool(x.dtype) else mb.sub
        x = differ(x=later, y=earlier)
    context.add(mb.identity(x=x, name=node.name))


@replaces("cumsum")
def cumulative_sum(context: Any, node: Any, otherwise: Translation) -> None:
    """Sums up to each element along an axis, which coremltools cannot count from behind, but for the last."""
    x, dim, dtype = arguments(context, node, "self", "dim", "dtype")
    if types.is_bool(x.dtype):
        x = mb.cast(x=x, dtype="int32")
    wanted = None if dtype is None else NUM_TO_DTYPE_STRING[constant(dtype, "the type of a sum")]
    if wanted is not None and types.builtin_to_string(x.dtype) != wanted:
        x = mb.cast(x=x, dtype=wanted)
    axis = int(constant(dim, "the axis of a sum")) % x.rank
    context.add(mb.cumsum(x=x, axis=axis, name=node.name))


@adds("cdist", "_cdist_forward")
def cdist(context: Any, node: Any) -> None:
    """The Euclidean distance of each row of x to each of y."""
    x, y, p = arguments(context, node, "x1", "x2", "p", "compute_mode")[:3]
    if p is not None and constant(p, "the norm of a distance") != 2:
        raise NotImplementedError("distances of another norm than the second")
    apart = mb.sub(x=mb.expand_dims(x=x, axes=[-2]), y=mb.expand_dims(x=y, axes=[-3]))
    context.add(mb.sqrt(x=mb.reduce_sum(x=mb.mul(x=apart, y=apart), axes=[-1]), name=node.name))


@replaces("mv", "matmul")
def matrix_times_vector(context: Any, node: Any, otherwise: Translation) -> None:
    """(…, n, m) times (m,), and integers times floating numbers: coremltools stumbles on both.

    PyTorch multiplies equal types only, but coremltools has made integers of some floating numbers by then, such as
    a range of whole ones.
    """
    x, y = promote_input_dtypes(arguments(context, node, "self", "other"))
    if y.rank != 1 or x.rank < 2:
        if {x, y} == set(arguments(context, node, "self", "other")):
            otherwise(context, node)
        else:
            context.add(mb.matmul(x=x, y=y, name=node.name))
        return
    product = mb.matmul(x=x, y=mb.expand_dims(x=y, axes=[-1]))
    context.add(mb.squeeze(x=product, axes=[-1], name=node.name))


@replaces("outer")
def outer(context: Any, node: Any, otherwise: Translation) -> None:
    """The products of all pairs, of integers and floating numbers too: see `matrix_times_vector`."""
    x, y = promote_input_dtypes(arguments(context, node, "self", "vec2"))
    columns, rows = mb.expand_dims(x=x, axes=[1]), mb.expand_dims(x=y, axes=[0])
    context.add(mb.mul(x=columns, y=rows, name=node.name))


@replaces("gelu")
def gelu(context: Any, node: Any, otherwise: Translation) -> None:
    """Of an export coremltools forgets that it is approximated."""
    x, approximate = arguments(context, node, "self", "approximate")
    is_tanh = approximate is not None and str(constant(approximate, "an approximation")) == "tanh"
    context.add(mb.gelu(x=x, mode="TANH_APPROXIMATION" if is_tanh else "EXACT", name=node.name))


def _truncated(x: Any, name: str | None = None) -> Any:
    named = {} if name is None else {"name": name}
    if not types.is_float(x.dtype):
        return mb.identity(x=x, **named)
    return mb.mul(x=mb.sign(x=x), y=mb.floor(x=mb.abs(x=x)), **named)


def _as_float(x: Any) -> Any:
    return x if types.is_float(x.dtype) else mb.cast(x=x, dtype="fp32")
