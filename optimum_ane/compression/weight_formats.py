"""The forms that a search may give a weight, and what a weight becomes in each of them.

A package whose weights all have one form is made once for each form. It tells, for every weight at once, the values
that the weight takes in that form and the bytes that it needs, and which weights coremltools passes by.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimum_ane.analysis.operations import read_program
from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import Recipe, Step
from optimum_ane.compression.settings import THRESHOLD, Palettize, Quantize, Settings
from optimum_ane.compression.targets import target_of_program
from optimum_ane.compression.weights import Weight, read_weights
from optimum_ane.errors import CompressionError
from optimum_ane.package.deployment_targets import TARGETS
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant, volume
from optimum_ane.runtimes.portable.variants import weights_by_name

AS_IT_IS = "fp16"
"""The form of a weight that is left alone."""

FUNCTION = "main"
_MADE_OF = ("_palettized", "_quantized")
_RECORD, _ALIGNMENT = 64, 64  # of an array in a weight file: what stands before it, and what it is filled up to


@dataclass(frozen=True)
class Form:
    """One form of a weight.

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


FORMS = (
    Form("int8", Quantize(dtype="int8", granularity="per_channel")),
    *(Form(f"palette{bits}", Palettize(nbits=bits)) for bits in (6, 4, 3, 2)),
    *(Form(f"palette{bits}-g16", _grouped(bits)) for bits in (6, 4, 3, 2)),
    *(Form(f"palette{bits}-g16-width", _grouped(bits, 1), for_tables=True) for bits in (4, 3)),
    Form("int4-block32", Quantize(dtype="int4", granularity="per_block", block_size=32), for_tables=True),
)
"""Palettes are the Neural Engine's own dense form, in groups of 16 channels still at nearly full speed (coremltools'
guide to palettization performance); int8 per channel streams from A15 and M2 on."""


def forms_for(target: str) -> tuple[Form, ...]:
    """The forms that a deployment target reads.

    Raises:
        CompressionError: It reads none.
    """
    fitting = tuple(f for f in FORMS if TARGETS.index(f.settings.needs[0]) <= TARGETS.index(target))
    if not fitting:
        raise CompressionError(f"packages for {target} hold no compressed weights; export for iOS16 or later")
    return fitting


class FormLibrary:
    """What every weight of a package becomes in every form. Packages of one form are made when they are asked for.

    Attributes:
        package: The package as it is.
        forms: The forms, by name.
        weights: The float weights of two axes or more that are large enough to compress, by name.
    """

    def __init__(self, mlpackage: Path, folder: Path) -> None:
        """Opens a package.

        Args:
            mlpackage: The package as it is, its weights float16.
            folder: Where packages of one form are kept; one that is there already is taken.

        Raises:
            PackageError: The package is damaged.
            CompressionError: Its target reads no compressed weights.
        """
        self.package = Package(mlpackage)
        target = target_of_program(self.package.spec, str(mlpackage))
        self.forms: Mapping[str, Form] = {form.name: form for form in forms_for(target)}
        self.weights: Mapping[str, Weight] = {
            weight.name: weight
            for weight in read_weights(read_program(mlpackage)).values()
            if len(weight.shape) > 1 and weight.elements > THRESHOLD
        }
        self._folder = folder
        self._constants = {AS_IT_IS: weights_by_name(self.package, FUNCTION)}

    def is_made(self, form: str) -> bool:
        """Whether the package of a form is there."""
        return self._place(form).is_dir()

    def make(self, form: str) -> None:
        """Makes the package of a form, unless it is there; a killed run leaves none that is not whole."""
        if self.is_made(form):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{form}.partial.mlpackage"
        shutil.rmtree(partial, ignore_errors=True)
        settings = self.forms[form].settings
        step = Step(settings.kind, default=settings)
        compress_mlpackage(self.package.path, partial, Recipe(form, "a form", (step,), psnr=0.0))
        partial.rename(self._place(form))

    def constant(self, weight: str, form: str) -> Constant | None:
        """Returns a weight in a form; None where coremltools passes the weight by in that form."""
        if form not in self._constants:
            self.make(form)
            self._constants[form] = weights_by_name(Package(self._place(form)), FUNCTION)
        constants = self._constants[form]
        names = [weight] if form == AS_IT_IS else [weight + suffix for suffix in _MADE_OF]
        return next((constants[name] for name in names if name in constants), None)

    def size(self, weight: str, form: str) -> int:
        """Returns the bytes of the weight file that a weight takes in a form that it may take."""
        constant = self.constant(weight, form)
        assert constant is not None
        return stored_size(constant)

    def forms_of(self, weight: str) -> tuple[str, ...]:
        """The names of the forms that a weight may take, that of the weight as it is left out."""
        is_table = self.weights[weight].op_types == ("gather",)
        fitting = (f.name for f in self.forms.values() if is_table or not f.for_tables)
        return tuple(form for form in fitting if self.constant(weight, form) is not None)

    def _place(self, form: str) -> Path:
        return self._folder / f"{form}.mlpackage"


def stored_size(constant: Constant) -> int:
    """Bytes of a weight file that an array takes, compressed or not, with the records before it and the padding."""
    leaves = _leaves(constant)
    return sum(_RECORD + -(-_bytes(leaf) // _ALIGNMENT) * _ALIGNMENT for leaf in leaves if leaf.in_file)


def _leaves(constant: Constant) -> set[Constant]:
    if not constant.sources:
        return {constant}
    return {leaf for source in constant.sources for leaf in _leaves(source)}


def _bytes(leaf: Constant) -> int:
    return 0 if leaf.type is None else (volume(leaf.type.shape) * leaf.type.dtype.bits + 7) // 8
