"""The multiplication of rows by a fixed weight, which is nearly all that a transformer does.

torch's own `linear` calls MKL, which on CPUs of other makers than Intel's leaves the wide vector units idle (105
against 240 GFLOP/s on a Zen 5, one thread). oneDNN, which comes with torch as well, uses them; it is reached through
the operators that torch's compiler emits for a linear layer with a packed weight. Where a build of torch lacks them,
`linear` it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.values import Constant, passing_copy

Rows = Callable[[Tensor], Tensor]
"""Maps (…, inputs) to (…, outputs)."""


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


def dense(weight: Constant, bias: Constant | None, *, transposed: bool = False) -> Rows:
    """Returns the multiplication of rows by a constant weight.

    Args:
        weight: Of (outputs, inputs), followed by any axes of extent 1; (inputs, outputs) where `transposed`.
        bias: Of (outputs,), or None.
        transposed: The weight is stored the other way round.
    """

    def make() -> Rows:
        stored = weight.carried()
        matrix = stored.t() if transposed else stored.flatten(1)
        offset = None if bias is None else bias.tensor().reshape(-1)
        if _HAS_ONEDNN and matrix.dtype == torch.float32 and matrix.numel():
            return _packed(matrix, offset)
        return lambda rows: F.linear(rows, matrix, offset)

    # A function of a program may use a weight with one bias, and another function the same weight with another.
    return weight.derived(("dense", transposed, bias), make)
