"""The graph pass that casts a program to float16."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Operation, Var
from coremltools.converters.mil.mil.passes.defs.quantization import add_fp16_cast
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

_LARGEST = 65504
"""The largest number of float16."""
_INFINITE = 1e38
"""coremltools takes what is as large as this for infinity, which float16 has: masks of float32's least number."""
_ELEMENTS_AT_ONCE = 2**20


@register_pass(namespace="optimum_ane")
class cast_to_float16(add_fp16_cast):  # noqa: N801 - passes are named by their class
    """Casts what every operation reads to float16, as coremltools' `common::add_fp16_cast` does, in less memory.

        x (float32) ─► cast(fp16) ─┬─► conv (float16) ─► cast(fp32) ─►        passes that follow drop most of the casts
        weight      ─► cast(fp16) ─┘                                          and round the weights

    An operation stays in float32 where one of its constants has no float16 value. coremltools looks for such numbers
    through the indices of all others (`np.where`): eight bytes for each axis of each element, 40 bytes for an element
    of a convolution's weight, and half the time of a conversion. Here a constant's least and largest number decide,
    and only one that holds an infinity or NaN is looked at piece by piece. The resulting program is the same.
    """

    @staticmethod
    def fp16_overflow(op: Operation) -> bool:
        """Tells whether a constant that the operation reads has a finite number that float16 cannot hold."""
        return find_overflow(op) is not None


def find_overflow(op: Operation) -> Var | None:
    """The first constant that an operation reads and that has a finite number beyond float16; None without one."""
    operands = (
        each for given in op.inputs.values() for each in (given if isinstance(given, list | tuple) else [given])
    )
    return next(
        (each for each in operands if _is_float32_constant(each) and exceeds_float16(each.op.val.val)),
        None,
    )


def _is_float32_constant(operand: Var) -> bool:
    is_constant = operand.op is not None and operand.op.op_type == "const"
    return is_constant and operand.is_tensor_or_scalar_of(dtype="fp32")


def exceeds_float16(values: np.ndarray | np.float32) -> bool:
    """Tells whether some number is beyond ±65,504 and yet no infinity, which float16 has. NaN is none.

    Args:
        values: float32, of any shape.
    """
    # With a NaN among the values both are NaN, and no comparison holds.
    if np.max(values, initial=0) <= _LARGEST and np.min(values, initial=0) >= -_LARGEST:
        return False
    flat = np.reshape(values, -1)
    return any(_some_exceed(flat[i : i + _ELEMENTS_AT_ONCE]) for i in range(0, flat.size, _ELEMENTS_AT_ONCE))


def _some_exceed(values: np.ndarray) -> bool:
    magnitudes = np.abs(values)
    return bool(((magnitudes > _LARGEST) & (magnitudes < _INFINITE)).any())
