"""Arithmetic per operation, by MIL's operation type.

Conventions. A multiply-add counts as 2. A bias costs nothing: the accumulator starts from it. What moves or reshapes
data costs 0, what works element by element 1 per element of the result, whichever function it is: the engine looks
functions up in tables. Integers and comparisons count like floats. The matrix products are counted as PyTorch's
`torch.utils.flop_counter` counts them, and so is everything that is a product in disguise (convolution, attention,
recurrence); the parameters are those of MIL's operation set, documented at apple.github.io/coremltools.

An extent that is not known before the program runs (None) counts as 1: the result is then a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = Sequence[int | None]
Shapes = Mapping[str, Sequence[Shape]]


def volume(shape: Shape) -> int:
    """Returns the number of elements of a shape; an unknown extent counts as 1."""
    return math.prod(1 if extent is None else extent for extent in shape)


def count_flops(op: str, inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """Counts the arithmetic of one operation.

    Args:
        op: MIL's type.
        inputs: The operands' shapes by parameter, weights included.
        outputs: The results' shapes.
        attributes: Small constant arguments by parameter.

    Returns:
        Operations, 2 per multiply-add. An operation type without a formula of its own counts 1 per element of its
        results.
    """
    if op in _FREE:
        return 0
    formula = _FORMULAS.get(op)
    if formula is not None:
        return formula(inputs, outputs, attributes)
    return _PER_ELEMENT.get(op, 1) * sum(volume(shape) for shape in outputs)


def _first(inputs: Shapes, name: str) -> Shape:
    """Returns the shape of a parameter's operand; () where the program leaves it out."""
    shapes = inputs.get(name, ())
    return shapes[0] if shapes else ()


def _conv(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """2 · outputs · (C_in / groups) · kernel: a weight is [C_out, C_in / groups, kernel…]."""
    return 2 * volume(outputs[0]) * volume(_first(inputs, "weight")[1:])


def _conv_transpose(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """2 · inputs · (C_out / groups) · kernel: a weight is [C_in, C_out / groups, kernel…]."""
    return 2 * volume(_first(inputs, "x")) * volume(_first(inputs, "weight")[1:])


def _linear(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """2 · outputs · D_in: a weight is [D_out, D_in]."""
    return 2 * volume(outputs[0]) * volume(_first(inputs, "weight")[-1:])


def _matmul(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """2 · outputs · K, where K is the contracted axis of x."""
    x = _first(inputs, "x")
    contracted = x[-2:-1] if attributes.get("transpose_x") is True and len(x) > 1 else x[-1:]
    return 2 * volume(outputs[0]) * volume(contracted)


def _einsum(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """The product of all letters' extents: twice where a letter is summed over, once where none is."""
    equation = str(attributes.get("equation", "")).replace(" ", "")
    left, _, right = equation.partition("->")
    extents: dict[str, int] = {}
    for letters, shape in zip(left.split(","), inputs.get("values", ()), strict=False):
        for letter, extent in zip(letters, shape, strict=False):
            extents[letter] = max(extents.get(letter, 1), extent or 1)
    return math.prod(extents.values()) * (2 if extents.keys() - set(right) else 1)


def _attention(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """Scores 2 · B · Lq · Lk · E, softmax 5 · B · Lq · Lk, mask B · Lq · Lk, and the sum 2 · B · Lq · Lk · Ev."""
    query, key, value = (_first(inputs, name) for name in ("query", "key", "value"))
    scores = volume(query[:-1]) * volume(key[-2:-1])
    masked = scores if inputs.get("attn_mask") else 0
    return 2 * scores * (volume(query[-1:]) + volume(value[-1:])) + _PER_ELEMENT["softmax"] * scores + masked


def _pool(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """One operation for each element of each window."""
    kernel = attributes.get("kernel_sizes", [])
    return volume(outputs[0]) * math.prod(n for n in kernel if isinstance(n, int))


def _recurrence(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """2 · steps · batch · weights: x is [steps, batch, features], and each step reads every weight of every gate."""
    names = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back", "weight", "recurrent_weight")
    weights = sum(volume(_first(inputs, name)) for name in names if inputs.get(name))
    return 2 * volume(_first(inputs, "x")[:2]) * weights


def _per_input(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """One look at each element of the input."""
    return volume(_first(inputs, "x") or _first(inputs, "data"))


def _updates(inputs: Shapes, outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """One operation for each element that is written."""
    return volume(_first(inputs, "updates"))


_MOVES = """const identity cast reshape reshape_like expand_dims squeeze transpose flatten2d concat split stack pad
    tile slice_by_index slice_by_size slice_update gather gather_along_axis gather_nd reverse reverse_sequence
    sliding_windows space_to_depth depth_to_space pixel_shuffle pixel_unshuffle space_to_batch batch_to_space crop
    shape fill fill_like range_1d one_hot upsample_nearest_neighbor resize_nearest_neighbor read_state write_state
    coreml_update_state make_list list_read list_write list_length list_gather list_scatter cond while_loop
    classify"""
"""What moves data, makes it from nothing, or only steers."""
_FREE = frozenset(_MOVES.split())

_LOOKS = """reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_max
    reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square topk argsort non_zero non_maximum_suppression"""
"""What looks at each element of its input once."""

_PER_ELEMENT = {
    # Maximum, difference, exponential, sum, quotient.
    "softmax": 5,
    # Mean, difference, square, its mean, quotient, gain, bias.
    "layer_norm": 7,
    "instance_norm": 7,
    # Mean and variance are known: one multiply-add.
    "batch_norm": 2,
    # Square, sum, quotient.
    "l2_norm": 3,
    "local_response_norm": 5,
    # Scale and zero point.
    "quantize": 2,
    "dequantize": 2,
    # Four products and three sums for each element that lies between four.
    "upsample_bilinear": 7,
    "resize_bilinear": 7,
    "crop_resize": 7,
    "resample": 7,
    "affine": 7,
    "resize": 7,
}

_FORMULAS: Mapping[str, Callable[[Shapes, Sequence[Shape], Mapping[str, Any]], int]] = {
    "conv": _conv,
    "conv_quantized": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("avg_pool", "max_pool", "l2_pool"), _pool),
    **dict.fromkeys(("lstm", "gru", "rnn"), _recurrence),
    **dict.fromkeys(("scatter", "scatter_along_axis", "scatter_nd"), _updates),
    **dict.fromkeys(_LOOKS.split(), _per_input),
}
