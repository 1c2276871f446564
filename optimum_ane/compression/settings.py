"""What one weight is to become: coremltools' parameters of palettization, quantization and pruning, checked early."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from optimum_ane.errors import CompressionError

LutFunction = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes weights of any shape, float16 or float32; returns a palette of 2^bits values and the flat uint8 indices."""

THRESHOLD = 2048
"""coremltools' own: a weight of so many elements or fewer is left as it is."""

# Measured: with groups of 16, 1.12 of the float16 size; an embedding table whose rows do not divide into the groups
# came out divided by its scales. See https://github.com/apple/coremltools/pull/2777 and .../pull/2688. Done by hand
# along the axis that is documented, it answered 13 dB further off than the plain palette.
NO_CHANNEL_SCALE = (
    "a scale per channel on a palette (enable_per_channel_scale) is not offered: coremltools 9.0 takes the scales "
    "along the wrong axis, stores a palette for each scale, leaves weights that it skips divided by them, and the "
    "result does not load on the Neural Engine of macOS 26; take palette4-g16"
)
"""Why the one setting of coremltools' palettizer is refused; docs/compression.md tells it at length."""


@dataclass(frozen=True)
class Palettize:
    """Indices into a palette: `coremltools.optimize.coreml.OpPalettizerConfig`.

    Attributes:
        nbits: Bits of an index: 1, 2, 3, 4, 6 or 8.
        mode: `"kmeans"`, the palette with the least squared error, or `"uniform"`, evenly spaced values.
        granularity: `"per_tensor"`, one palette for the weight, or `"per_grouped_channel"`, one for each group.
        group_size: Output channels in a group.
        channel_axis: The axis of the groups; None takes that of the output channels.
        enable_per_channel_scale: Refused; see `NO_CHANNEL_SCALE`.
        weight_threshold: Weights of so many elements or fewer are left as they are.
    """

    kind: ClassVar[str] = "palettize"

    nbits: int = 8
    mode: str = "kmeans"
    granularity: str = "per_tensor"
    group_size: int = 32
    channel_axis: int | None = None
    enable_per_channel_scale: bool = False
    weight_threshold: int = THRESHOLD

    def __post_init__(self) -> None:
        """Refuses what coremltools cannot store."""
        _one_of(self, "nbits", (1, 2, 3, 4, 6, 8))
        _one_of(self, "mode", ("kmeans", "uniform"))
        _one_of(self, "granularity", ("per_tensor", "per_grouped_channel"))
        _at_least(self, "group_size", 1)
        if self.enable_per_channel_scale:
            raise CompressionError(NO_CHANNEL_SCALE)

    @property
    def is_grouped(self) -> bool:
        """Whether each group of channels has a palette of its own."""
        return self.granularity == "per_grouped_channel"

    @property
    def bits(self) -> float:
        """Bits of an element, the palette left out."""
        return self.nbits

    @property
    def needs(self) -> tuple[str, str]:
        """The oldest deployment target that reads it, and why."""
        if self.is_grouped:
            return "iOS18", "a palette for each group of channels"
        return ("iOS18", "a palette of 3 bits") if self.nbits == 3 else ("iOS16", "one palette per weight")

    def describe(self) -> str:
        """In a few words."""
        return f"palette of {self.nbits} bits{f', groups of {self.group_size}' if self.is_grouped else ''}"

    def config(self, lut_function: LutFunction) -> Any:
        """The same as coremltools takes it; k-means is done by `lut_function`."""
        from coremltools.optimize.coreml import OpPalettizerConfig

        return OpPalettizerConfig(
            mode="custom",
            lut_function=lut_function,
            granularity=self.granularity,
            group_size=self.group_size,
            channel_axis=self.channel_axis,
            weight_threshold=self.weight_threshold,
        )


@dataclass(frozen=True)
class Quantize:
    """Integers, a scale, and for some a zero point: `coremltools.optimize.coreml.OpLinearQuantizerConfig`.

    Attributes:
        mode: `"linear_symmetric"`, no zero point, or `"linear"`, from the least value to the largest.
        dtype: `"int8"`, `"uint8"`, `"int4"` or `"uint4"`.
        granularity: `"per_channel"`, `"per_tensor"`, or `"per_block"`.
        block_size: Elements along the input channels that share a scale.
        weight_threshold: Weights of so many elements or fewer are left as they are.
    """

    kind: ClassVar[str] = "quantize"

    mode: str = "linear_symmetric"
    dtype: str = "int8"
    granularity: str = "per_channel"
    block_size: int = 32
    weight_threshold: int = THRESHOLD

    def __post_init__(self) -> None:
        """Refuses what coremltools cannot store."""
        _one_of(self, "mode", ("linear_symmetric", "linear"))
        _one_of(self, "dtype", ("int8", "uint8", "int4", "uint4"))
        _one_of(self, "granularity", ("per_channel", "per_tensor", "per_block"))
        _at_least(self, "block_size", 1)
        _at_least(self, "weight_threshold", 0)

    @property
    def bits(self) -> float:
        """Bits of an element, the scales left out."""
        return 4 if self.dtype.endswith("4") else 8

    @property
    def needs(self) -> tuple[str, str]:
        """The oldest deployment target that reads it, and why."""
        if self.granularity == "per_block":
            return "iOS18", "a scale per block"
        return ("iOS18", "integers of 4 bits") if self.bits == 4 else ("iOS16", "integers of 8 bits")

    def describe(self) -> str:
        """In a few words."""
        block = f"block of {self.block_size}" if self.granularity == "per_block" else self.granularity[4:]
        return f"{self.dtype} per {block}{'' if self.mode == 'linear_symmetric' else ', with zero point'}"

    def config(self, _: LutFunction) -> Any:
        """The same as coremltools takes it."""
        from coremltools.optimize.coreml import OpLinearQuantizerConfig

        return OpLinearQuantizerConfig(
            mode=self.mode,
            dtype=self.dtype,
            granularity=self.granularity,
            block_size=self.block_size,
            weight_threshold=self.weight_threshold,
        )


@dataclass(frozen=True)
class Prune:
    """A mask and the values under it: `coremltools.optimize.coreml.OpMagnitudePrunerConfig`.

    Attributes:
        target_sparsity: The share of elements, those of least magnitude, that become zero; 0 to 1.
        weight_threshold: Weights of so many elements or fewer are left as they are.
    """

    kind: ClassVar[str] = "prune"

    target_sparsity: float = 0.5
    weight_threshold: int = THRESHOLD

    def __post_init__(self) -> None:
        """Refuses what coremltools cannot store."""
        if not 0 < self.target_sparsity < 1:
            raise CompressionError(f"target_sparsity is {self.target_sparsity}; it must be between 0 and 1")
        _at_least(self, "weight_threshold", 0)

    @property
    def bits(self) -> float:
        """Bits of an element where what is kept stays float16."""
        return 1 + 16 * (1 - self.target_sparsity)

    @property
    def needs(self) -> tuple[str, str]:
        """The oldest deployment target that reads it, and why."""
        return "iOS16", "sparse weights"

    def describe(self) -> str:
        """In a few words."""
        return f"{self.target_sparsity:.0%} zeros"

    def config(self, _: LutFunction) -> Any:
        """The same as coremltools takes it."""
        from coremltools.optimize.coreml import OpMagnitudePrunerConfig

        return OpMagnitudePrunerConfig(target_sparsity=self.target_sparsity, weight_threshold=self.weight_threshold)


Settings = Palettize | Quantize | Prune
KINDS: Mapping[str, type[Palettize] | type[Quantize] | type[Prune]] = {
    kind.kind: kind for kind in (Palettize, Quantize, Prune)
}


def read_settings(kind: str, entries: Any, where: str) -> Settings:
    """Makes settings of a mapping, strictly.

    Args:
        kind: A key of `KINDS`.
        entries: coremltools' parameters by name.
        where: The place in the recipe, for messages.

    Raises:
        CompressionError: A name is unknown, or a value is of the wrong kind or out of range.
    """
    chosen = KINDS[kind]
    if not isinstance(entries, Mapping):
        raise CompressionError(f"{where} should be a mapping of {kind}'s settings, it is {entries!r}")
    types = {field.name: str(field.type) for field in fields(chosen)}
    for name, value in entries.items():
        if name not in types:
            raise CompressionError(f"{where}: {kind} has no setting {name!r}{near_miss(str(name), types)}")
        if not _fits(value, types[name]):
            raise CompressionError(f"{where}: {name} is {value!r}; it should be {types[name]}")
    try:
        return chosen(**entries)
    except CompressionError as error:
        raise CompressionError(f"{where}: {error}") from error


def near_miss(name: str, known: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """`"; did you mean …?"` where a known name is close, and the known names where none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _fits(value: Any, type_name: str) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
        "int | None": (int, type(None)),
    }
    return isinstance(value, kinds[type_name]) and (type_name == "bool" or not isinstance(value, bool))


def _one_of(settings: Any, name: str, allowed: tuple[Any, ...]) -> None:
    if getattr(settings, name) not in allowed:
        known = ", ".join(map(str, allowed))
        raise CompressionError(f"{name} is {getattr(settings, name)!r}; it must be one of {known}")


def _at_least(settings: Any, name: str, least: int) -> None:
    if getattr(settings, name) < least:
        raise CompressionError(f"{name} is {getattr(settings, name)}; it must be at least {least}")
