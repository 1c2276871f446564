"""The graph pass that computes a root-mean-square norm as a layer norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of


@register_pass(namespace="optimum_ane")
class rms_norm_as_layer_norm(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces the mean of squares, which float16 cannot hold, by a layer norm of x beside −x.

        x ─┬─► square ─► reduce_mean(axes=[-1]) ─► add(epsilon) ─► rsqrt ─► mul ─► mul(weight) ─►
           └───────────────────────────────────────────────────────────────┘

    becomes

        x ─┬──────────► concat ─► layer_norm(axes=[-1], gamma=(weight, weight), epsilon) ─► its first half ─►
           └─► mul(−1) ────┘

    The mean of (x, −x) is zero, and so its variance is the mean of squares of x: the result is the same. x² exceeds
    float16 from |x| = 256 on, as it is in the residual streams of trained decoders; the layer norm accumulates wider.
    Source: ANEMLL, `anemll/models/llama_model.py`, and other projects that measured it on devices.

    For float16 programs; in float32 the squares are right as they are.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _rewrite(function)


@dataclass(frozen=True)
class _Norm:
    """A norm that was found.

    Attributes:
        x: What is normed, over its last axis.
        epsilon: Added to the mean of squares.
        weight: Multiplied to the result, (C,); None without one.
        last: The operation whose result is the norm's.
    """

    x: Var
    epsilon: np.float32
    weight: np.ndarray | None
    last: Operation


@block_context_manager
def _rewrite(block: Block) -> None:
    for operation in list(block.operations):
        if operation.op_type == "reduce_mean" and (norm := _find(block, operation)) is not None:
            _replace(block, norm)


def _find(block: Block, mean: Operation) -> _Norm | None:
    """The norm that a mean over the last axis is part of; None if it is of another kind."""
    x = _squared(mean.x)
    if x is None or not bool(mean.keep_dims.val) or [int(axis) % x.rank for axis in mean.axes.val] != [x.rank - 1]:
        return None
    add = _only_child(block, mean.outputs[0])
    epsilon = None if add is None or add.op_type != "add" else _other_value(add, mean.outputs[0])
    if add is None or epsilon is None or np.size(epsilon) != 1:
        return None
    product = _product(block, x, add.outputs[0])
    if product is None:
        return None
    number = np.float32(np.asarray(epsilon).reshape(-1)[0])
    scale = _only_child(block, product.outputs[0])
    if scale is not None and scale.op_type == "mul":
        weight = _other_value(scale, product.outputs[0])
        if weight is not None and np.shape(weight)[-1:] == x.shape[-1:] and np.size(weight) == x.shape[-1]:
            return _Norm(x, number, np.asarray(weight).reshape(-1), scale)
    return _Norm(x, number, None, product)


def _squared(square: Var) -> Var | None:
    """What a value is the square of."""
    operation = square.op
    if operation is None:
        return None
    if operation.op_type == "square":
        return operation.x
    if operation.op_type == "mul" and operation.x is operation.y:
        return operation.x
    if operation.op_type == "pow" and operation.y.val is not None and np.all(operation.y.val == 2):
        return operation.x
    return None


def _product(block: Block, x: Var, variance: Var) -> Operation | None:
    """The operation that divides x by the root of the mean of squares."""
    root = _only_child(block, variance)
    if root is None:
        return None
    if root.op_type == "sqrt":
        division = _only_child(block, root.outputs[0])
        if division is None:
            return None
        if division.op_type == "real_div" and division.x is x and division.y is root.outputs[0]:
            return division
        root = division if division.op_type == "inverse" and division.epsilon.val <= 0 else None
    elif root.op_type == "pow":
        is_inverse_root = root.x is variance and root.y.val is not None and np.all(root.y.val == -0.5)
        root = root if is_inverse_root else None
    elif root.op_type != "rsqrt":
        return None
    if root is None:
        return None
    product = _only_child(block, root.outputs[0])
    if product is None or product.op_type != "mul" or {product.x, product.y} != {x, root.outputs[0]}:
        return None
    return product


def _only_child(block: Block, value: Var) -> Operation | None:
    """The one operation that reads a value; None where there are others, or where it is an output."""
    return value.child_ops[0] if len(value.child_ops) == 1 and value not in block.outputs else None


def _other_value(operation: Operation, operand: Var) -> np.ndarray | None:
    """The constant that an operation of two operands takes beside one."""
    other = operation.y if operation.x is operand else operation.x
    return other.val


def _replace(block: Block, norm: _Norm) -> None:
    x, last = norm.x, norm.last
    name, axis = last.outputs[0].name, x.rank - 1
    length = int(x.shape[axis])
    gamma = {} if norm.weight is None else {"gamma": np.concatenate([norm.weight, norm.weight]).astype(np.float32)}
    with scope_of(last):
        negative = mb.mul(x=x, y=np.float32(-1), before_op=last, name=f"{name}_negative")
        both = mb.concat(values=[x, negative], axis=axis, before_op=last, name=f"{name}_both")
        normed = mb.layer_norm(
            x=both, axes=[axis], epsilon=norm.epsilon, before_op=last, name=f"{name}_both_normed", **gamma
        )
        half = mb.slice_by_size(
            x=normed, begin=[0] * x.rank, size=[*x.shape[:-1], length], before_op=last, name=f"{name}_normed"
        )
    if block.try_replace_uses_of_var_after_op(anchor_op=last, old_var=last.outputs[0], new_var=half):
        half.op.name = half.name
