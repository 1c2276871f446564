"""The graph pass that takes the normalisation of images into the convolutions that read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.input_types import ImageType
from coremltools.converters.mil.mil import Block, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from optimum_ane.targets.coreml.passes.scopes import scope_of

_STEPS = 256.0
"""What whole numbers of eight bits are divided by: a power of two, which loses nothing."""
_GRID = 2.0**11
"""A number of this many steps to 1, taken from one of 256 steps, is exact in float16 as long as both are in [0, 1]."""


@register_pass(namespace="optimum_ane")
class fold_normalization(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Scales weights in place of the images that they are multiplied with.

        image ─► mul(s) ─► add(b) ─► mul(mask) ─► pad(0) ─► conv(W) ─►

    becomes

        image ─► mul(1/256) ─► sub(z) ─► mul(mask) ─► pad(0) ─► conv(256 · s · W) ─►

    where z = −b / (256 · s) is the number that is normalised to 0: the mean colour. So the zeros that pad the border
    mean what they meant before, and the result is the same there as elsewhere. The power of two keeps the weights
    where they were: times 1 / (255 · std) many would be subnormal in float16, which the engine takes for 0.

    In float16 the two operations are exact: z is rounded to where they are, by 1/16 of a step of eight bits at most,
    and what that changes goes into the bias of the convolution; it is left where a mask, or the border, has zeros. So
    nothing is rounded but the weights, as without this pass.

    All that reads the normalised image must be such a convolution; else it stays as it is.

    Attributes:
        precision: Of the program to be, `"float16"` or `"float32"`.
    """

    precision: str = "float32"

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            for image in function.input_types or ():
                if isinstance(image, ImageType) and image.name in function.inputs:
                    _fold(function, function.inputs[image.name], self.precision == "float16")


@block_context_manager
def _fold(block: Block, image: Var, rounds: bool) -> None:
    scaled = _only_reader(image, "mul")
    shifted = None if scaled is None else _only_reader(scaled.outputs[0], "add")
    if scaled is None or shifted is None:
        return
    channels = image.shape[1]
    scale, bias = _per_channel(scaled, channels), _per_channel(shifted, channels)
    convolutions = _convolutions(shifted.outputs[0], block)
    if scale is None or bias is None or not convolutions:
        return
    factor = scale * _STEPS
    zero = -bias / factor
    taken = _rounded(zero, rounds)
    with scope_of(shifted):
        value = mb.mul(x=image, y=np.float32(1 / _STEPS), before_op=shifted, name=f"{image.name}_in_steps")
        if taken.any():
            value = mb.sub(
                x=value,
                y=taken.astype(np.float32).reshape(1, -1, 1, 1),
                before_op=shifted,
                name=f"{image.name}_from_mean",
            )
    for convolution in convolutions:
        _scale(convolution, factor, taken - zero)
    block.replace_uses_of_var_after_op(anchor_op=shifted, old_var=shifted.outputs[0], new_var=value)
    block.remove_ops([shifted, scaled])


def _rounded(zero: np.ndarray, rounds: bool) -> np.ndarray:
    """The number that is subtracted."""
    return np.round(zero * _GRID) / _GRID if rounds else zero.astype(np.float32).astype(np.float64)


def _only_reader(value: Var, kind: str) -> Operation | None:
    readers = value.child_ops
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _per_channel(operation: Operation, channels: int) -> np.ndarray | None:
    """The constant operand, one number for each channel; None where it is something else."""
    constant = operation.y.val if operation.x.val is None else operation.x.val
    if constant is None or np.shape(constant) not in ((), (1, channels, 1, 1)):
        return None
    return np.broadcast_to(np.asarray(constant, np.float64).reshape(-1), channels)


def _convolutions(value: Var, block: Block) -> list[Operation]:
    """The convolutions that read a value, at once, padded with zeros or masked; none where something else reads it."""
    found: list[Operation] = []
    passed = {value}  # what carries the image
    waiting = [value]
    while waiting:
        carrier = waiting.pop()
        if carrier in block.outputs:
            return []
        for reader in carrier.child_ops:
            result = reader.outputs[0]
            if reader.op_type == "conv" and reader.x is carrier and _has_own_weights(reader):
                found.append(reader)
            elif result not in passed and (
                _hands_on(reader) or (reader.op_type == "mul" and reader.x is not reader.y)
            ):
                passed.add(result)
                waiting.append(result)
            else:
                return []
    return found


def _hands_on(reader: Operation) -> bool:
    return reader.op_type == "identity" or (reader.op_type == "pad" and _pads_with_zeros(reader))


def _has_own_weights(convolution: Operation) -> bool:
    parameters: Sequence[Var | None] = (convolution.weight, convolution.bias)
    return convolution.weight.val is not None and all(each is None or each.val is not None for each in parameters)


def _pads_with_zeros(pad: Operation) -> bool:
    mode, number = pad.mode, pad.constant_val
    return (mode is None or mode.val == "constant") and (number is None or number.val == 0)


def _scale(convolution: Operation, factor: np.ndarray, left: np.ndarray) -> None:
    """Gives a convolution weights for images in steps.

    Args:
        convolution: Its weights are (outputs, channels / groups, height, width).
        factor: What the weights of each channel are multiplied by.
        left: What its input lacks of the normalised image, before the factor, of each channel.
    """
    weight = convolution.weight.val.astype(np.float64)
    outputs, own = weight.shape[:2]
    first = np.arange(outputs) // (outputs * own // len(factor)) * own
    channel = first[:, None] + np.arange(own)[None, :]  # of each weight
    scaled = weight * factor[channel][:, :, None, None]
    shift = (scaled.sum((2, 3)) * left[channel]).sum(1)
    _replace(convolution, "weight", scaled)
    if shift.any():
        _replace(convolution, "bias", shift if convolution.bias is None else convolution.bias.val + shift)


def _replace(convolution: Operation, parameter: str, value: np.ndarray) -> None:
    """Gives a convolution another constant, under the name of the old one where nothing else reads that."""
    old = convolution.inputs.get(parameter)
    name = f"{convolution.name}_{parameter}" if old is None else f"{old.name}_of_steps"
    with scope_of(convolution):
        new = mb.const(val=value.astype(np.float32), name=name, before_op=convolution)
    convolution.set_inputs(**{parameter: new})
    if old is not None and not old.child_ops:
        kept = old.name
        old.name, new.name, new.op.name = f"{kept}_of_pixels", kept, kept
