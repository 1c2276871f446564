"""The operations, by family. Importing this package registers them all."""

from optimum_ane.runtimes.portable.ops import (
    activation,
    blocks,
    classification,
    conversion,
    elementwise,
    gathering,
    linear,
    normalization,
    pooling,
    reduction,
    resizing,
    sampling,
    scattering,
    shaping,
    state,
)

__all__ = [
    "activation",
    "blocks",
    "classification",
    "conversion",
    "elementwise",
    "gathering",
    "linear",
    "normalization",
    "pooling",
    "reduction",
    "resizing",
    "sampling",
    "scattering",
    "shaping",
    "state",
]
