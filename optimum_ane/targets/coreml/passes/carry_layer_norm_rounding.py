"""The graph pass that makes the rounding of a norm's weight to float16 harmless."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

_LARGEST_STEP = 2.0**-10
"""The scale by which rounding to float16 changes a normal number is within this of 1."""


@register_pass(namespace="optimum_ane")
class carry_layer_norm_rounding(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Rounds each norm's weight to float16 and carries the exact quotient into the convolutions that follow.

    A norm's weight multiplies every token alike, so its rounding is a bias of the whole residual stream and does not
    average out, as that of a projection does: of all float16 weights of a DistilBERT these few alone cost more
    accuracy than all others together. With `s = float16(weight) / weight` per channel:

        x ─► layer_norm(weight, bias) ─┬─► conv(W) ─►                 W (columns) / s
                                       └─► add ◄─ conv(V, b)          V (rows) · s, b · s
                                            └─► layer_norm(weight')   weight' / s, and so on from there

    The norm that reads the sum has the same weight as before up to the scale of the sum. That its mean and variance
    are taken over channels that are each off by up to 2⁻¹¹ averages out over the channels, the better the smaller
    their mean is beside their spread. Nothing is changed where a result has any other user, or a weight is shared.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _carry_in_block(function)


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
def _carry_in_block(block: Block) -> None:
    scales: dict[Var, np.ndarray] = {}
    for norm in [operation for operation in block.operations if _is_channel_norm(operation)]:
        weight = norm.gamma.val.astype(np.float64)
        # Of the sum that the norm reads; 1 for a norm whose input was left alone.
        weight = weight / scales.get(norm.x, np.ones_like(weight))
        bias = norm.beta.val.astype(np.float64)
        users = _users(block, norm.outputs[0])
        scale = _rounding(weight)
        if users is not None and scale is not None:
            weight, bias = weight * scale, bias * scale
            for reader in users.readers:
                _replace_constant(block, reader, "weight", reader.weight.val / scale[None, :, None, None])
            for writer in users.writers:
                _replace_constant(block, writer, "weight", writer.weight.val * scale[:, None, None, None])
                if writer.bias is not None:
                    _replace_constant(block, writer, "bias", writer.bias.val * scale)
            scales.update(dict.fromkeys(users.sums, scale))
        _replace_constant(block, norm, "gamma", weight)
        _replace_constant(block, norm, "beta", bias)


def _is_channel_norm(operation: Operation) -> bool:
    if operation.op_type != "layer_norm" or list(operation.axes.val) != [1]:
        return False
    return all(parameter is not None and _is_own(parameter) for parameter in (operation.gamma, operation.beta))


def _rounding(weight: np.ndarray) -> np.ndarray | None:
    """By how much rounding to float16 scales each weight; 1 for zeros. None where float16 has no close number."""
    with np.errstate(over="ignore"):  # infinity is no close number either
        rounded = weight.astype(np.float16).astype(np.float64)
    scale = np.divide(rounded, weight, out=np.ones_like(weight), where=weight != 0)
    return scale if np.abs(scale - 1).max() <= _LARGEST_STEP else None


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
    if other.op.bias is not None and not _is_own(other.op.bias):
        return None
    children = _children(add)
    return other.op if len(children) == 1 and _is_channel_norm(children[0]) else None


def _takes_scale(conv: Operation) -> bool:
    return conv.groups.val == 1 and _is_own(conv.weight)


def _is_own(parameter: Var) -> bool:
    """Whether a parameter is a constant that one operation alone uses."""
    return parameter.val is not None and len(parameter.child_ops) == 1


def _children(operation: Operation) -> list[Operation]:
    return list(operation.outputs[0].child_ops)


def _replace_constant(block: Block, operation: Operation, name: str, value: np.ndarray) -> None:
    old = getattr(operation, name)
    new = mb.const(val=value.astype(old.val.dtype), name=f"{old.name}_carried", before_op=operation)
    block.replace_uses_of_var_after_op(anchor_op=new.op, old_var=old, new_var=new)
