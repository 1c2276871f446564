"""The multiplication of rows by a fixed weight, which is nearly all that a transformer does.

Many rows take as long as the arithmetic. torch's own `linear` calls MKL, which on CPUs of other makers than Intel's
leaves the wide vector units idle (105 against 240 GFLOP/s on a Zen 5, one thread). oneDNN, which comes with torch as
well, uses them; it is reached through the operators that torch's compiler emits for a linear layer with a packed
weight.

Few rows, the one token of a decoder above all, take as long as the weight takes to be read from memory. FBGEMM, which
comes with torch too, reads a weight of fp16 as such, and multiplies and adds in float32: half the bytes. Milliseconds
for all products of a token of SmolLM2-135M (one thread of a Xeon with AVX-512), by rows at once:

    rows   `linear`   oneDNN   FBGEMM
    1          40       47       27
    8          93       56       43
    64        159      142      161

Where a build of torch lacks the one or the other, `linear` it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import Call, Prepared
from optimum_ane.runtimes.portable.values import Constant, passing_copy

Rows = Callable[[Tensor], Tensor]
"""Maps (…, inputs) to (…, outputs)."""

_MOST_ROWS = 16
"""Up to so many FBGEMM is faster on small and large layers; a function may be run with eight times as many."""
_MOST_ROWS_WITH_STATES = 64
"""Up to so many it is as fast on layers of 1,000 channels, at 2,000 a sixth slower; but the weight is packed once for
the functions that take one token and those that take a block of them."""


def _onednn() -> bool:
    """Tells whether this build of torch has the operators, by using them."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        rows = _packed(torch.eye(2), torch.ones(2))
        return bool((rows(torch.eye(2)) == torch.eye(2) + 1).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _packed(matrix: Tensor, bias: Tensor | None) -> Rows:
    """Packs a weight of (outputs, inputs) once and returns the multiplication by it."""
    weight = torch.ops.mkldnn._reorder_linear_weight(
        matrix if matrix.is_contiguous() else passing_copy(matrix, matrix.dtype)
    )
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda rows: multiply(rows, weight, bias, "none", [], "")


_HAS_ONEDNN = _onednn()


def _packed_half(matrix: Tensor, bias: Tensor | None) -> Rows:
    """Does what `_packed` does with a weight of numbers that fp16 holds, and keeps it in fp16."""
    weight = torch.ops.quantized.linear_prepack_fp16(matrix.contiguous(), bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda rows: multiply(rows, weight)


def _is_finite(matrix: Tensor) -> bool:
    least, most = matrix.aminmax()  # a fifteenth of the time of `isfinite`
    return bool((most - least).isfinite())


def _fbgemm() -> bool:
    """Tells whether this build of torch and this processor have FBGEMM, by using it."""
    try:
        numbers = torch.tensor([[6e-8, -65504.0], [1.0, 2.0**-14]])  # the least and the most that fp16 holds
        return bool((_packed_half(numbers, torch.zeros(2))(torch.eye(2)) == numbers.half().float().t()).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


_HAS_FBGEMM = _fbgemm()


def _packed_for_half(matrix: Tensor, bias: Tensor | None) -> Prepared:
    """Packs a weight of fp16 for rows of fp16: what they give is summed in float32 and rounded once."""
    weight = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous())
    multiply = torch.ops.mkldnn._linear_pointwise

    def rows(rows: Tensor) -> Tensor:
        result: Tensor = multiply(rows, weight, bias, "none", [], "")
        return result

    return Prepared(lambda x: rows(x.half()).float(), rows)


def _half() -> bool:
    """Tells whether oneDNN multiplies fp16 on this processor, and adds in float32."""
    try:
        if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()):
            return False
        rows = torch.ones(32, 64).half()
        rows[:, 0], rows[:, 1:3] = 2048.0, 65504.0  # 2048 + 1 is 2048 in fp16, and twice the most is infinite
        weight = torch.ones(16, 64).half()
        weight[:, 2] = -1.0
        return bool((_packed_for_half(weight, torch.ones(16).half()).in_half(rows) == 2048 + 62).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


_HAS_HALF = _half()


def dense(
    call: Call, weight: Constant, bias: Constant | None, *, axis: int, transposed: bool = False
) -> Rows | Prepared:
    """Returns the multiplication of rows by a constant weight.

    Args:
        call: The use: rows are all of x but one axis. With states there are never more rows than declared, and another
            function, which takes one token at a time, is likely to share the weight.
        weight: Of (outputs, inputs), followed by any axes of extent 1; (inputs, outputs) where `transposed`.
        bias: Of (outputs,), or None.
        axis: That axis.
        transposed: The weight is stored the other way round.
    """
    form = _form(call, call.rows(axis), weight, bias)

    def make() -> Rows | Prepared:
        if form == "half" and weight.stored().numel():
            stored = weight.stored()
            offset = None if bias is None else bias.stored().reshape(-1)
            return _packed_for_half(stored.t() if transposed else stored.flatten(1), _unless_zero(offset))
        stored = weight.carried()
        matrix = stored.t() if transposed else stored.flatten(1)
        offset = None if bias is None else _unless_zero(bias.tensor().reshape(-1))
        if form == "few" and matrix.numel() and _is_finite(matrix):  # FBGEMM bounds infinity
            return _packed_half(matrix, offset)
        if _HAS_ONEDNN and matrix.dtype == torch.float32 and matrix.numel():
            return _packed(matrix, offset)
        return lambda rows: F.linear(rows, matrix, offset)

    # A function of a program may use a weight with one bias, and another function the same weight with another.
    made: Rows | Prepared = weight.derived(("dense", transposed, bias, form), make)
    return made


def _form(call: Call, rows: int, weight: Constant, bias: Constant | None) -> Literal["few", "half", "wide"]:
    """In which form a weight is packed: as fp16 for few rows, as fp16 for rows of fp16, or in float32."""
    types = [weight.type, call.types.get("x"), *([] if bias is None else [bias.type])]
    halves = [type_ is not None and type_.dtype.name == "float16" for type_ in types]
    if not halves[0] or rows < 1:
        return "wide"
    if rows > _MOST_ROWS and _HAS_HALF and call.rounds and all(halves):
        return "half"
    most = _MOST_ROWS_WITH_STATES if call.is_stateful else _MOST_ROWS
    return "few" if rows <= most and _HAS_FBGEMM else "wide"


def _unless_zero(bias: Tensor | None) -> Tensor | None:
    """Leaves a bias of zeros out, which many converters add to layers that have none."""
    return None if bias is None or not bias.any() else bias
