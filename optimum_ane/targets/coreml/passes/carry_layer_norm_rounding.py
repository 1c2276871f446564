"""The graph pass that casts to float16 and makes the rounding of a norm's weight harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.targets.coreml.passes.cast_to_float16 import cast_to_float16, find_overflow

_LARGEST_STEP = 2.0**-10
"""The scale by which rounding to float16 changes a normal number is within this of 1."""
_LARGEST_WEIGHT = 2.0**15
"""A weight below this stays within float16's range whatever its scale."""


@register_pass(namespace="optimum_ane")
class carry_layer_norm_rounding(cast_to_float16):  # noqa: N801 - passes are named by their class
    """Rounds each norm's weight to float16 and carries the exact quotient into the convolutions that follow.

    A norm's weight multiplies every token alike, so its rounding is a bias of the whole residual stream and does not
    average out, as that of a projection does: of all float16 weights of a DistilBERT these few alone cost more
    accuracy than all others together. With `s = float16(weight) / weight` per channel:

        x ─► layer_norm(weight, bias) ─┬─► conv(W) ─►                 W (columns) / s
                                       └─► add ◄─ conv(V, b)          V (rows) · s, b · s
                                            └─► layer_norm(weight')   weight' / s, and so on from there

    The norm that reads the sum has the same weight as before up to the scale of the sum. That its mean and variance
    are taken over channels that are each off by up to 2⁻¹¹ averages out over the channels, the better the smaller
    their mean is beside their spread. Nothing is changed where a result has any other user, or a convolution's weight
    is shared.

    It is done in one pass with the cast. The weights of nearly all convolutions change, and each is scaled when it is
    rounded, so that there is never more than one scaled weight in float32 at a time.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        self._scales: dict[Operation, WeightScale] = {}
        for function in prog.functions.values():
            self._scales |= carry_rounding(function)
        super().apply(prog)

    @staticmethod
    def fp16_overflow(op: Operation) -> bool:
        """Refuses a constant beyond float16, which would leave the operation in float32, off the engine.

        Raises:
            UnsupportedModelError: There is one; the message names it and its largest number.
        """
        constant = find_overflow(op)
        if constant is not None:
            raise UnsupportedModelError(
                f"the constant {constant.name} of {op.op_type} {op.name} holds {np.abs(constant.val).max():.7g}, and "
                "float16 ends at 65,504; export with --precision float32 for CPU and GPU"
            )
        return False

    def should_cast_parameter(self, op: Operation, param_name: str) -> bool:
        """Tells whether a parameter is to be cast; a weight that has a scale to take is not, it is made anew."""
        return not (param_name == "weight" and op in self._scales) and super().should_cast_parameter(op, param_name)

    def _get_casted_outputs(self, op: Operation, casted_inputs: dict[str, Any]) -> Any:
        """Builds the operation in float16; coremltools gives what it is built from."""
        if op in self._scales:
            weight = self._scales.pop(op)(op.weight.val).astype(np.float16)
            name = f"{op.weight.name}_carried_to_fp16"
            casted_inputs["weight"] = mb.const(val=weight, name=name, before_op=op)
        return super()._get_casted_outputs(op, casted_inputs)


@dataclass
class WeightScale:
    """What the weight of a convolution takes over from the norms before and behind it.

    Attributes:
        rows: Per output channel, float64, to multiply by; None for none.
        columns: Per input channel, float64, to divide by; None for none.
    """

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        """Returns a weight (O, I, kH, kW) scaled, float32."""
        if self.columns is not None:
            weight = weight / self.columns[None, :, None, None]
        if self.rows is not None:
            weight = weight * self.rows[:, None, None, None]
        return weight.astype(np.float32)


@dataclass
class _Users:
    """Where the result of a norm goes, if everything that it goes to can take a scale."""

    readers: list[Operation]
    """Convolutions over it."""
    writers: list[Operation]
    """Convolutions whose results are added to it."""
    sums: list[Var]
    """The sums, each read by one norm alone."""


@block_context_manager
def carry_rounding(block: Block) -> dict[Operation, WeightScale]:
    """Scales the norms of a block and the biases of convolutions, in place, and tells what is left to be done.

    Args:
        block: A function of a float32 program.

    Returns:
        What the weights of convolutions are to be scaled by.
    """
    scales: dict[Var, np.ndarray] = {}
    left: dict[Operation, WeightScale] = {}
    for norm in [operation for operation in block.operations if _is_channel_norm(operation)]:
        before = scales.get(norm.x)  # of the sum that the norm reads; None for an input that was left alone
        weight = norm.gamma.val.astype(np.float64) if before is None else norm.gamma.val / before
        scale = _rounding(weight)
        users = None if scale is None else _users(block, norm.outputs[0])
        if scale is not None and users is not None:
            for reader in users.readers:
                left.setdefault(reader, WeightScale()).columns = scale
            for writer in users.writers:
                left.setdefault(writer, WeightScale()).rows = scale
                if writer.bias is not None:
                    replace_constant(writer, "bias", writer.bias.val * scale)
            scales.update(dict.fromkeys(users.sums, scale))
            replace_constant(norm, "gamma", weight * scale)
            replace_constant(norm, "beta", norm.beta.val * scale)
        elif before is not None:
            replace_constant(norm, "gamma", weight)
    return left


def _is_channel_norm(operation: Operation) -> bool:
    if operation.op_type != "layer_norm" or list(operation.axes.val) != [1]:
        return False
    return all(parameter is not None and parameter.val is not None for parameter in (operation.gamma, operation.beta))


def _rounding(weight: np.ndarray) -> np.ndarray | None:
    """By how much rounding to float16 scales each weight; 1 for zeros.

    Returns:
        Shape (C,), float64; None where it scales none of them, or where float16 has no close number.
    """
    with np.errstate(over="ignore"):  # infinity is no close number either
        rounded = weight.astype(np.float16).astype(np.float64)
    scale = np.divide(rounded, weight, out=np.ones_like(weight), where=weight != 0)
    return scale if 0 < np.abs(scale - 1).max() <= _LARGEST_STEP else None


def _users(block: Block, result: Var) -> _Users | None:
    """Finds the users of a norm's result; None if one of them cannot take a scale."""
    users = _Users([], [], [])
    if result in block.outputs:
        return None
    for child in result.child_ops:
        if child.op_type == "conv" and _takes_scale(child) and child.x is result:
            users.readers.append(child)
        elif child.op_type == "slice_by_index" and all(_reads(block, child, user) for user in _children(child)):
            users.readers += _children(child)
        elif child.op_type == "add" and (writer := _added_convolution(block, child, result)) is not None:
            users.writers.append(writer)
            users.sums.append(child.outputs[0])
        else:
            return None
    return users


def _reads(block: Block, cut: Operation, user: Operation) -> bool:
    """Whether a user of a cut along the sequence is a convolution that can take a scale."""
    keeps_channels = cut.outputs[0].shape[1] == cut.x.shape[1] and cut.outputs[0] not in block.outputs
    return keeps_channels and user.op_type == "conv" and _takes_scale(user)


def _added_convolution(block: Block, add: Operation, result: Var) -> Operation | None:
    """The convolution whose result is added to a norm's, if the sum goes to one norm and nowhere else."""
    other = add.y if add.x is result else add.x
    total = add.outputs[0]
    if other is result or other.op is None or other.op.op_type != "conv" or not _takes_scale(other.op):
        return None
    if len(other.child_ops) != 1 or other in block.outputs or total in block.outputs:
        return None
    if other.op.bias is not None and other.op.bias.val is None:
        return None
    children = _children(add)
    return other.op if len(children) == 1 and _is_channel_norm(children[0]) else None


def _takes_scale(conv: Operation) -> bool:
    """Whether the weight is a constant that this convolution alone uses, and stays one of float16 when scaled."""
    if conv.groups.val != 1 or conv.weight.val is None or len(conv.weight.child_ops) != 1:
        return False
    return float(np.abs(conv.weight.val).max()) < _LARGEST_WEIGHT


def _children(operation: Operation) -> list[Operation]:
    return list(operation.outputs[0].child_ops)


def replace_constant(operation: Operation, name: str, value: np.ndarray) -> None:
    """Gives an operation a constant of its own, float32; others that read the old one keep it."""
    old = getattr(operation, name)
    new = mb.const(val=value.astype(np.float32), name=f"{old.name}_carried", before_op=operation)
    operation.set_inputs(**{name: new})
