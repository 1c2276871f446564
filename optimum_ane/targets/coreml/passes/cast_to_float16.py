"""The graph pass that casts a program to float16."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Function, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.defs.quantization import add_fp16_cast
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

_LARGEST = 65504
"""The largest number of float16."""
_INFINITE = 1e38
"""coremltools takes what is as large as this for infinity, which float16 has: masks of float32's least number."""
_ELEMENTS_AT_ONCE = 2**20
_ARITHMETIC = frozenset(
    (
        "add",
        "sub",
        "mul",
        "real_div",
        "clip",
        "exp",
        "inverse",
        "log",
        "maximum",
        "minimum",
        "sigmoid",
        "square",
        "tanh",
    )
)
_MOVES = frozenset(
    ("concat", "expand_dims", "reshape", "slice_by_index", "slice_by_size", "split", "squeeze", "stack", "transpose")
)


@register_pass(namespace="optimum_ane")
class cast_to_float16(add_fp16_cast):  # noqa: N801 - passes are named by their class
    """Casts what every operation reads to float16, as coremltools' `common::add_fp16_cast` does, in less memory.

        x (float32) ─► cast(fp16) ─┬─► conv (float16) ─► cast(fp32) ─►        passes that follow drop most of the casts
        weight      ─► cast(fp16) ─┘                                          and round the weights

    An operation stays in float32 where one of its constants has no float16 value. coremltools looks for such numbers
    through the indices of all others (`np.where`): eight bytes for each axis of each element, 40 bytes for an element
    of a convolution's weight, and half the time of a conversion. Here a constant's least and largest number decide,
    and only one that holds an infinity or NaN is looked at piece by piece. The resulting program is the same.

    But for what makes a float32 output: the element-wise steps at its end are not cast. A box's sides leave a sigmoid
    between 0 and 1, and near 1 the numbers of float16 are 2⁻¹¹ apart, 0.39 pixels of an image of 800.

        conv (float16) ─► cast(fp32) ─► sigmoid ─► transpose ─► pred_boxes (float32)
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[Operation] = set()

    def apply(self, prog: Program) -> None:
        """Casts every function of a program, in place."""
        self._kept = {operation for function in prog.functions.values() for operation in _exact_ends(function)}
        super().apply(prog)

    def is_valid_op(self, op: Operation) -> bool:
        """Tells whether an operation is to be cast."""
        return op not in self._kept and super().is_valid_op(op)

    @staticmethod
    def fp16_overflow(op: Operation) -> bool:
        """Tells whether a constant that the operation reads has a finite number that float16 cannot hold."""
        return find_overflow(op) is not None


def _exact_ends(function: Function) -> Iterator[Operation]:
    """The element-wise operations at the end of the float32 outputs, and the moves between and behind them."""
    declared = zip(function.outputs, function.output_types or (), strict=False)
    wanted = {output for output, kind in declared if kind.dtype == types.fp32 and types.is_float(output.dtype)}
    ends: list[Operation] = []  # the last first
    for operation in reversed(function.operations if wanted else []):
        if operation.op_type in _ARITHMETIC | _MOVES and _leads_only_to(operation, wanted, ends):
            ends.append(operation)
    computing: set[Operation] = set()
    for operation in reversed(ends):
        if operation.op_type in _ARITHMETIC or any(each.op in computing for each in _operands(operation)):
            computing.add(operation)
            yield operation


def _leads_only_to(operation: Operation, wanted: set[Var], ends: Collection[Operation]) -> bool:
    """Whether all that reads an operation is among some others, and something is, or it makes what is wanted."""
    outputs = operation.outputs
    if any(each.consuming_blocks and each not in wanted for each in outputs):
        return False
    readers = [reader for each in outputs for reader in each.child_ops]
    return all(each in ends for each in readers) and bool(readers or wanted & {*outputs})


def _operands(operation: Operation) -> Iterator[Var]:
    given: Any
    for given in operation.inputs.values():
        for each in given if isinstance(given, list | tuple) else [given]:
            if each is not None and each.val is None and types.is_float(each.dtype):
                yield each


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
