"""Weights of another shape whose compression is kept: the same bits, with axes added or in another order.

A weight is a constant, or what `constexpr_*` operations make of constants when a program is loaded: scaled integers,
looked-up indices, what lies between zeros, and these in one another. Its values are not known to a pass (`val` is
None), and need not be: the constants that it is made of are rearranged, each in its own way.

    data (O, I), scale (O, 1) ─► constexpr_blockwise_shift_scale ─► (O, I)

becomes

    data (O, I, 1, 1), scale (O, 1, 1, 1) ─► constexpr_blockwise_shift_scale ─► (O, I, 1, 1)

Source of the forms: coremltools' definitions of the operations, `mil/ops/defs/iOS16/constexpr_ops.py` and
`iOS18/compression.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Operation, Var
from coremltools.optimize._utils import pack_elements_into_bits, restore_elements_from_packed_bits

from optimum_ane.targets.coreml.passes.scopes import scope_of

CONSTEXPR = "constexpr_"
"""Begins the types of the operations that are computed when a program is loaded."""

_PAIRS = ("constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale")
"""The operations that give a mask and what lies where it is one."""


def is_constant_expression(var: Var) -> bool:
    """Whether a value is known when a program is loaded: a constant, or what `constexpr_*` operations make of some."""
    return var.val is not None or (var.op is not None and var.op.op_type.startswith(CONSTEXPR))


def can_take_trailing_axes(weight: Var) -> bool:
    """Whether `with_trailing_axes` takes a weight."""
    return _can_rearrange(weight, _Arrangement(range(weight.rank), trailing=2))


def with_trailing_axes(weight: Var, before_op: Operation) -> Var:
    """Gives a weight two more axes of one element, as a convolution of size 1 takes it; its compression is kept.

    Args:
        weight: (out, in), for which `can_take_trailing_axes` holds.
        before_op: The new operations stand before it, and have the scopes of the weight's, or else its own.

    Returns:
        The same weight, (out, in, 1, 1).

    Raises:
        ValueError: It is made in a way that is not known.
    """
    return _rearranged(weight, _Arrangement(range(weight.rank), trailing=2), before_op)


def can_transpose(weight: Var) -> bool:
    """Whether `transposed` takes a weight."""
    return _can_rearrange(weight, _Arrangement(_transposition(weight)))


def transposed(weight: Var, before_op: Operation) -> Var:
    """Exchanges the last two axes of a weight; its compression is kept.

    Args:
        weight: (…, in, out), for which `can_transpose` holds.
        before_op: The new operations stand before it, and have the scopes of the weight's, or else its own.

    Returns:
        The same weight, (…, out, in).

    Raises:
        ValueError: It is made in a way that is not known.
    """
    return _rearranged(weight, _Arrangement(_transposition(weight)), before_op)


def _transposition(weight: Var) -> list[int]:
    return [*range(weight.rank - 2), weight.rank - 1, weight.rank - 2] if weight.rank > 1 else [*range(weight.rank)]


@dataclass(frozen=True)
class _Arrangement:
    """What becomes of the axes of a weight.

    Attributes:
        order: The axis that stands at each place afterwards.
        trailing: How many axes of one element follow.
    """

    order: Sequence[int]
    trailing: int = 0

    @property
    def moves(self) -> bool:
        """Whether elements change their places in memory."""
        return list(self.order) != [*range(len(self.order))]

    def array(self, array: np.ndarray, keep: int = 0) -> np.ndarray:
        """Rearranges an array; its last `keep` axes are none of the weight's, and stay the last."""
        rank = len(self.order)
        result = array.transpose([*self.order, *range(rank, rank + keep)]) if self.moves else array
        return result.reshape(result.shape[:rank] + (1,) * self.trailing + result.shape[rank:])

    def axis(self, axis: int) -> int:
        """Where an axis of the weight stands afterwards."""
        return list(self.order).index(axis % len(self.order))

    def elements(self, elements: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Reorders the elements that stand where a mask is not zero, row by row."""
        if not self.moves:
            return elements
        places = np.zeros(mask.shape, np.int64)
        places[mask != 0] = np.arange(elements.size)
        return elements[self.array(places)[self.array(mask) != 0]]


def _can_rearrange(weight: Var, arrangement: _Arrangement) -> bool:
    if weight.val is not None:
        return True
    operation = weight.op
    if operation is None or operation.op_type not in _FORMS:
        return False
    if "shape" in operation.inputs or operation.op_type in ("constexpr_affine_dequantize", "constexpr_cast"):
        # The forms of iOS 16, which are made of constants only.
        return all(each.val is not None for each in operation.inputs.values())
    if "mask" in operation.inputs or operation.op_type in _PAIRS:
        mask, elements = _mask_and_elements(operation)
        if not _can_rearrange(mask, arrangement) or not _can_reorder(elements, mask, arrangement):
            return False
    rest = [operation.inputs.get(name) for name in ("data", "indices", "scale", "offset", "lut")]
    return all(each is None or _can_rearrange(each, arrangement) for each in rest)


def _can_reorder(elements: Var, mask: Var, arrangement: _Arrangement) -> bool:
    if elements.op is not None and elements.op.op_type in _PAIRS:
        return _can_rearrange(elements, arrangement)
    return not arrangement.moves or (elements.val is not None and mask.val is not None)


def _mask_and_elements(operation: Operation) -> tuple[Var, Var]:
    if operation.op_type == "constexpr_lut_to_sparse":
        return operation.indices_mask, operation.indices_nonzero_data
    mask = operation.mask if operation.op_type == "constexpr_sparse_to_dense" else operation.data_mask
    return mask, operation.nonzero_data


def _rearranged(weight: Var, arrangement: _Arrangement, before_op: Operation) -> Var:
    if not _can_rearrange(weight, arrangement):
        kind = "an input" if weight.op is None else f"made by {weight.op.op_type}"
        raise ValueError(f"the weight {weight.name} is {kind}, which no pass here gives another shape")
    return _Rearranged(arrangement, before_op)(weight)


class _Rearranged:
    """Builds rearranged operations; one with two results, or that two others read, is built once."""

    def __init__(self, arrangement: _Arrangement, before_op: Operation) -> None:
        self.arrangement, self.before_op = arrangement, before_op
        self._made: dict[tuple[Operation, int], tuple[Var, ...]] = {}

    def __call__(self, var: Var, keep: int = 0) -> Var:
        """Rearranges a value whose first axes are those of the weight.

        Args:
            var: The weight, or what it is made of.
            keep: How many axes follow that are none of the weight's.
        """
        if var.val is not None:
            return self.constant(var, self.arrangement.array(var.val, keep))
        key = (var.op, keep)
        if key not in self._made:
            given = _FORMS[var.op.op_type](self, var.op, keep)
            with scope_of(var.op, self.before_op):
                results = getattr(mb, var.op.op_type)(**given, name=var.op.name, before_op=self.before_op)
            self._made[key] = tuple(results) if isinstance(results, list | tuple) else (results,)
        return self._made[key][var.op.outputs.index(var)]

    def constant(self, like: Var, array: np.ndarray) -> Var:
        """Makes a constant with the name, element type and scopes of another."""
        with scope_of(like.op or self.before_op, self.before_op):
            return mb.const(val=array, name=like.name, before_op=self.before_op)

    def elements(self, elements: Var, mask: Var) -> Var:
        """Reorders what lies where a mask is one."""
        if elements.op is not None and elements.op.op_type in _PAIRS:
            return self(elements)
        if not self.arrangement.moves:
            return elements
        return self.constant(elements, self.arrangement.elements(elements.val, mask.val))

    def axis(self, axis: Var | None) -> np.int32 | None:
        """Where an axis of the weight stands afterwards."""
        return None if axis is None else np.int32(self.arrangement.axis(int(axis.val)))


_Arguments = dict[str, object]


def _affine(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    return {
        "quantized_data": make(operation.quantized_data, keep),
        "zero_point": operation.zero_point,
        "scale": operation.scale,
        "axis": make.axis(operation.axis),
    }


def _cast(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    return {"source_val": make(operation.source_val, keep), "output_dtype": operation.output_dtype}


def _lut(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    if "shape" not in operation.inputs:
        return {
            "indices": make(operation.indices, keep),
            "lut": make(operation.lut, keep + 2),
            "vector_axis": make.axis(operation.vector_axis),
        }
    shape, indices = [int(extent) for extent in operation.shape.val], operation.indices
    if make.arrangement.moves:
        bits = int(operation.lut.shape[0]).bit_length() - 1
        plain = restore_elements_from_packed_bits(indices.val, bits, int(np.prod(shape)))
        moved = make.arrangement.array(plain.astype(np.uint8).reshape(shape))
        indices = make.constant(indices, pack_elements_into_bits(moved.reshape(-1), bits))
    return {"indices": indices, "lut": operation.lut, "shape": _shape(make.arrangement, shape)}


def _shape(arrangement: _Arrangement, shape: list[int]) -> np.ndarray:
    return np.array([shape[axis] for axis in arrangement.order] + [1] * arrangement.trailing, np.uint32)


def _sparse(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    if "shape" not in operation.inputs:
        mask, elements = _mask_and_elements(operation)
        return {"nonzero_data": make.elements(elements, mask), "mask": make(mask, keep)}
    shape, mask, elements = [int(extent) for extent in operation.shape.val], operation.mask, operation.nonzero_data
    if make.arrangement.moves:
        plain = np.unpackbits(mask.val, bitorder="little", count=int(np.prod(shape))).reshape(shape)
        elements = make.constant(elements, make.arrangement.elements(elements.val, plain))
        mask = make.constant(mask, np.packbits(make.arrangement.array(plain).reshape(-1), bitorder="little"))
    return {"nonzero_data": elements, "mask": mask, "shape": _shape(make.arrangement, shape)}


def _blocks(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    return {"data": make(operation.data, keep), **_scale_and_offset(make, operation, keep)}


def _scale_and_offset(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    offset = None if operation.offset is None else make(operation.offset, keep)
    return {"scale": make(operation.scale, keep), "offset": offset}


def _sparse_lut(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    mask, elements = _mask_and_elements(operation)
    return {
        "indices_mask": make(mask, keep),
        "indices_nonzero_data": make.elements(elements, mask),
        "lut": make(operation.lut, keep + 2),
        "vector_axis": make.axis(operation.vector_axis),
    }


def _sparse_blocks(make: _Rearranged, operation: Operation, keep: int) -> _Arguments:
    mask, elements = _mask_and_elements(operation)
    return {
        "data_mask": make(mask, keep),
        "nonzero_data": make.elements(elements, mask),
        **_scale_and_offset(make, operation, keep),
    }


_FORMS: dict[str, Callable[[_Rearranged, Operation, int], _Arguments]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_blockwise_shift_scale": _blocks,
    "constexpr_lut_to_sparse": _sparse_lut,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blocks,
}
