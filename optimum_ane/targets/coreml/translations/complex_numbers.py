"""Complex numbers, as a pair of tensors: what rotary positions do with them."""

from __future__ import annotations

from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types

from optimum_ane.targets.coreml.translations.arguments import arguments, constant
from optimum_ane.targets.coreml.translations.register import Translation, adds, replaces


@adds("polar")
def polar(context: Any, node: Any) -> None:
    """Numbers of a length and an angle."""
    length, angle = arguments(context, node, "abs", "angle")
    real, imaginary = (mb.mul(x=length, y=turn) for turn in (mb.cos(x=angle), mb.sin(x=angle)))
    context.add(mb.complex(real_data=real, imag_data=imaginary, name=node.name))


@adds("view_as_complex")
def view_as_complex(context: Any, node: Any) -> None:
    """Pairs on the last axis as numbers."""
    (x,) = arguments(context, node, "self")
    real, imaginary = mb.split(x=x, num_splits=2, axis=x.rank - 1)
    parts = (mb.squeeze(x=part, axes=[x.rank - 1]) for part in (real, imaginary))
    context.add(mb.complex(real_data=next(parts), imag_data=next(parts), name=node.name))


@replaces("mul")
def multiply(context: Any, node: Any, otherwise: Translation) -> None:
    """Also of complex numbers, which coremltools does not multiply."""
    x, y = arguments(context, node, "self", "other")
    if not (types.is_complex(x.dtype) or types.is_complex(y.dtype)):
        otherwise(context, node)
        return
    (a, b), (c, d) = _parts(x), _parts(y)
    if b is None:
        real, imaginary = mb.mul(x=a, y=c), mb.mul(x=a, y=d)
    elif d is None:
        real, imaginary = mb.mul(x=a, y=c), mb.mul(x=b, y=c)
    else:
        real = mb.sub(x=mb.mul(x=a, y=c), y=mb.mul(x=b, y=d))
        imaginary = mb.add(x=mb.mul(x=a, y=d), y=mb.mul(x=b, y=c))
    context.add(mb.complex(real_data=real, imag_data=imaginary, name=node.name))


@replaces("slice", "unsqueeze", "select")
def view_of_parts(context: Any, node: Any, otherwise: Translation) -> None:
    """Views of complex numbers, of both their parts."""
    x = context[node.inputs[0]]
    if not types.is_complex(x.dtype):
        otherwise(context, node)
        return
    if node.kind == "unsqueeze":
        _, dim = arguments(context, node, "self", "dim")
        axis = int(constant(dim, "an axis")) % (x.rank + 1)
        real, imaginary = (mb.expand_dims(x=part, axes=[axis]) for part in _parts(x))
    else:
        names = ("self", "dim", "index") if node.kind == "select" else ("self", "dim", "start", "end", "step")
        _, dim, *bounds = arguments(context, node, *names)
        axis = 0 if dim is None else int(constant(dim, "an axis")) % x.rank
        if node.kind == "select":
            index = int(constant(bounds[0], "an index"))
            real, imaginary = (mb.gather(x=part, indices=index % x.shape[axis], axis=axis) for part in _parts(x))
        else:
            known = [None if each is None else int(constant(each, "a slice")) for each in bounds]
            start, stop, step = slice(*known).indices(x.shape[axis])
            begin, end, stride = [0] * x.rank, list(x.shape), [1] * x.rank
            begin[axis], end[axis], stride[axis] = start, stop, step
            real, imaginary = (mb.slice_by_index(x=part, begin=begin, end=end, stride=stride) for part in _parts(x))
    context.add(mb.complex(real_data=real, imag_data=imaginary, name=node.name))


def _parts(x: Any) -> tuple[Any, Any]:
    """The real and the imaginary part; of a real number None for the latter."""
    if types.is_complex(x.dtype):
        return mb.complex_real(data=x), mb.complex_imag(data=x)
    return x, None
