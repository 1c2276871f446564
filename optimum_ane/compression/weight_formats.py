"""The formats that a search may give a weight, and what a weight becomes in each of them.

A package whose weights all have one format is made once for each format. It tells, for every weight at once, the
values that the weight takes in that format and the bytes that it needs, and which weights coremltools passes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import Recipe, Step
from optimum_ane.compression.settings import THRESHOLD, Palettize, Quantize, Settings
from optimum_ane.compression.targets import target_of_program
from optimum_ane.compression.weights import StoredWeights, Weight, bytes_of, leaves_of
from optimum_ane.errors import CompressionError
from optimum_ane.package.deployment_targets import TARGETS
from optimum_ane.package.recovery import clean
from optimum_ane.package.working_folders import WorkingFolder, partial_path
from optimum_ane.runtimes.portable.blob import ALIGNMENT, RECORD_BYTES
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant
from optimum_ane.runtimes.portable.variants import weights_by_name
from optimum_ane.targets.coreml.multifunction import MAIN

AS_IT_IS = "fp16"
"""The format of a weight that is left alone."""

_MADE_OF = ("_palettized", "_quantized")


@dataclass(frozen=True)
class WeightFormat:
    """One format of a weight.

    Attributes:
        name: What reports call it, in the way of the recipes' names.
        settings: coremltools' parameters.
        for_tables: Whether it is only for tables that a `gather` reads: these run on the CPU, where block-wise
            integers and groups along the width are no matter; on the Neural Engine they are, or nobody has said.
    """

    name: str
    settings: Settings
    for_tables: bool = False


def _grouped(nbits: int, axis: int | None = None) -> Palettize:
    return Palettize(nbits=nbits, granularity="per_grouped_channel", group_size=16, channel_axis=axis)


WEIGHT_FORMATS = (
    WeightFormat("int8", Quantize(dtype="int8", granularity="per_channel")),
    *(WeightFormat(f"palette{bits}", Palettize(nbits=bits)) for bits in (6, 4, 3, 2)),
    *(WeightFormat(f"palette{bits}-g16", _grouped(bits)) for bits in (6, 4, 3, 2)),
    *(WeightFormat(f"palette{bits}-g16-width", _grouped(bits, 1), for_tables=True) for bits in (4, 3)),
    WeightFormat("int4-block32", Quantize(dtype="int4", granularity="per_block", block_size=32), for_tables=True),
)
"""Palettes are the Neural Engine's own dense format, in groups of 16 channels still at nearly full speed (coremltools'
guide to palettization performance); int8 per channel streams from A15 and M2 on."""


def weight_formats_for(target: str) -> tuple[WeightFormat, ...]:
    """The formats that a deployment target reads.

    Raises:
        CompressionError: It reads none.
    """
    fitting = tuple(f for f in WEIGHT_FORMATS if TARGETS.index(f.settings.needs[0]) <= TARGETS.index(target))
    if not fitting:
        raise CompressionError(f"packages for {target} hold no compressed weights; export for iOS16 or later")
    return fitting


class FormattedWeights:
    """What every weight of a package becomes in every format. Packages of one format are made when they are asked for.

    Attributes:
        package: The package as it is.
        formats: The formats, by name.
        weights: The float weights of two axes or more that are large enough to compress, by name.
    """

    def __init__(self, mlpackage: Path, folder: Path) -> None:
        """Opens a package.

        Args:
            mlpackage: The package as it is, of one function, its weights float16.
            folder: Where packages of one format are kept; one that is there already is taken.

        Raises:
            PackageError: The package is damaged.
            CompressionError: Its target reads no compressed weights.
        """
        stored = StoredWeights(mlpackage)
        self.package = stored.package
        target = target_of_program(self.package.spec, str(mlpackage))
        self.formats: Mapping[str, WeightFormat] = {format.name: format for format in weight_formats_for(target)}
        self.weights: Mapping[str, Weight] = {
            weight.name: weight
            for weight in stored.weights.values()
            if len(weight.shape) > 1 and weight.elements > THRESHOLD
        }
        self._folder = folder
        self._constants = {AS_IT_IS: weights_by_name(self.package, MAIN)}

    def is_made(self, format: str) -> bool:
        """Whether the package of a format is there."""
        return self._place(format).is_dir()

    def make(self, format: str) -> None:
        """Makes the package of a format, unless it is there; a killed run leaves none that is not whole."""
        if self.is_made(format):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        clean(self._folder)
        settings = self.formats[format].settings
        step = Step(settings.kind, default=settings)
        recipe = Recipe(format, "every weight in one format", (step,), psnr=0.0)
        place = self._place(format)
        with WorkingFolder(partial_path(place)) as folder:
            compress_mlpackage(self.package.path, folder / place.name, recipe)
            (folder / place.name).rename(place)

    def constant(self, weight: str, format: str) -> Constant | None:
        """Returns a weight in a format; None where coremltools passes the weight by in that format."""
        if format not in self._constants:
            self.make(format)
            self._constants[format] = weights_by_name(Package(self._place(format)), MAIN)
        constants = self._constants[format]
        names = [weight] if format == AS_IT_IS else [weight + suffix for suffix in _MADE_OF]
        return next((constants[name] for name in names if name in constants), None)

    def size(self, weight: str, format: str) -> int:
        """Returns the bytes of the weight file that a weight takes in a format that it may take."""
        constant = self.constant(weight, format)
        assert constant is not None
        return stored_size(constant)

    def formats_of(self, weight: str) -> tuple[str, ...]:
        """The names of the formats that a weight may take, that of the weight as it is left out."""
        is_table = self.weights[weight].op_types == ("gather",)
        fitting = (f.name for f in self.formats.values() if is_table or not f.for_tables)
        return tuple(format for format in fitting if self.constant(weight, format) is not None)

    def _place(self, format: str) -> Path:
        return self._folder / f"{format}.mlpackage"


def stored_size(constant: Constant) -> int:
    """Bytes of a weight file that an array takes, compressed or not, with the records before it and the padding."""
    leaves = [leaf for leaf in leaves_of(constant) if leaf.in_file]
    return sum(RECORD_BYTES + -(-bytes_of(leaf) // ALIGNMENT) * ALIGNMENT for leaf in leaves)
