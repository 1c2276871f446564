"""Operations over windows: convolutions, pooling, batch norms, resizing.

Images are what the engine takes; a sequence is an image of height 1.

    conv(x (B, C, T), weight (O, I, K))  ─►  conv(x (B, C, 1, T), weight (O, I, 1, K))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Operation

from optimum_ane.targets.coreml.passes.compressed_weights import is_constant_expression
from optimum_ane.targets.coreml.passes.to_engine_layout.elementwise import other_inputs
from optimum_ane.targets.coreml.passes.to_engine_layout.form import BATCH, CHANNEL, HEIGHT, WIDTH
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Result, Rewriting, is_float, rewrites

_IMAGE = (BATCH, CHANNEL, HEIGHT, WIDTH)
_SEQUENCE = (BATCH, CHANNEL, WIDTH)

_OF_ALL = {"avg_pool": "reduce_mean", "max_pool": "reduce_max"}
"""What a pooling is whose one window covers an image: EfficientNet's is 1,280 to 2,560 wide, whatever the image."""

_RESIZING = (
    "upsample_nearest_neighbor",
    "upsample_bilinear",
    "resize_nearest_neighbor",
    "resize_bilinear",
    "resize",
    "pixel_shuffle",
    "pixel_unshuffle",
    "depth_to_space",
    "space_to_depth",
)


@rewrites("conv", "conv_transpose")
def _convolution(rewriting: Rewriting, operation: Operation) -> Result:
    x, weight = operation.x, operation.weight
    if not is_constant_expression(weight):
        return None
    if x.rank == 4:
        return _image(rewriting, operation)
    if x.rank != 3 or weight.val is None:
        return None
    form = rewriting.enter(x, _SEQUENCE)
    if form is None:
        return None
    others = _for_images(other_inputs(operation, {"x", "weight"}))
    four = rewriting.const(np.ascontiguousarray(weight.val[:, :, None, :]))
    output = operation.outputs[0]
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit(operation.op_type, x=tensor, weight=four, **others),
        [form],
        _SEQUENCE,
        output.shape,
        chunkable=False,
    )


@rewrites("batch_norm", "instance_norm", "avg_pool", "max_pool", "l2_pool", "local_response_norm")
def _window(rewriting: Rewriting, operation: Operation) -> Result:
    x = operation.x
    if not is_float(x):
        return None
    if x.rank == 4:
        reduction = _OF_ALL.get(operation.op_type)
        if reduction is not None and _covers_all(operation):
            return _reduced(rewriting, operation, reduction)
        return _image(rewriting, operation)
    if x.rank != 3:
        return None
    form = rewriting.enter(x, _SEQUENCE)
    if form is None:
        return None
    others = _for_images(other_inputs(operation, {"x"}))
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit(operation.op_type, x=tensor, **others),
        [form],
        _SEQUENCE,
        operation.outputs[0].shape,
        chunkable=False,
    )


def _covers_all(operation: Operation) -> bool:
    """Whether an image is pooled into one number for each channel, of all of it and nothing beside."""
    kind, pad = str(operation.pad_type.val), operation.pad
    has_padding = kind not in ("valid", "custom") or (kind == "custom" and pad is not None and pad.val.any())
    sizes = zip(operation.kernel_sizes.val, operation.x.shape[2:], strict=True)
    is_one = tuple(operation.outputs[0].shape[2:]) == (1, 1)
    return is_one and not has_padding and all(window >= extent for window, extent in sizes)


def _reduced(rewriting: Rewriting, operation: Operation, reduction: str) -> Result:
    form = rewriting.enter(operation.x, _IMAGE)
    if form is None:
        return None
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit(reduction, x=tensor, axes=[HEIGHT, WIDTH], keep_dims=True),
        [form],
        _IMAGE,
        operation.outputs[0].shape,
        chunkable=False,
    )


@rewrites(*_RESIZING)
def _image(rewriting: Rewriting, operation: Operation) -> Result:
    x = operation.x
    if x.rank != 4 or not is_float(x):
        return None
    if rewriting.form(x) is None or rewriting.is_kept(x):
        return rewriting.keep(operation)
    form = rewriting.enter(x, _IMAGE)
    if form is None:
        return None
    others = other_inputs(operation, {"x"})
    return map_tensors(
        rewriting,
        lambda tensor: rewriting.emit(operation.op_type, x=tensor, **others),
        [form],
        _IMAGE,
        operation.outputs[0].shape,
        chunkable=False,
    )


def _for_images(inputs: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an operation over sequences for one over images of height 1.

    The window has one row, and so the stride along the height does not matter; it is that along the width, for the
    engine takes no strides that differ (`conv-mixed-stride` of the residency rules).
    """
    changed = dict(inputs)
    for name in ("strides", "dilations"):
        if name in inputs:
            changed[name] = np.repeat(inputs[name].val, 2)
    if "kernel_sizes" in inputs:
        changed["kernel_sizes"] = np.array([1, *inputs["kernel_sizes"].val], dtype=np.int32)
    if "pad" in inputs:
        changed["pad"] = np.array([0, 0, *inputs["pad"].val], dtype=np.int32)
    if "output_shape" in inputs:
        batch, channels, length = inputs["output_shape"].val
        changed["output_shape"] = np.array([batch, channels, 1, length], dtype=np.int32)
    return changed
