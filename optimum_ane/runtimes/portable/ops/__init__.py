"""The operations, by family. Importing this package registers them all."""

from optimum_ane.runtimes.portable.ops import (
    activation,
    classification,
    conversion,
    elementwise,
    gathering,
    linear,
    normalization,
    reduction,
    shaping,
    state,
)

__all__ = [
    "activation",
    "classification",
    "conversion",
    "elementwise",
    "gathering",
    "linear",
    "normalization",
    "reduction",
    "shaping",
    "state",
]
