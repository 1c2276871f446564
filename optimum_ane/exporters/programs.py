"""What an architecture's package consists of: programs, their functions, and what goes into and comes out of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_ane.package.meanings import meaning_of

if TYPE_CHECKING:
    from torch import nn


def unchanged(module: nn.Module) -> nn.Module:
    """The view of a function that is traced from the program's module as it is."""
    return module


@dataclass(frozen=True)
class ValueSpec:
    """An input, output or state of a function.

    Attributes:
        name: In the program.
        shape: The extents; None where the traced program tells them, as it does for outputs.
        dtype: numpy's name of the element type.
        other_shapes: Further ones that an input may have, enumerated.
        image: The colour layout of an input that is one of Core ML's images, `"RGB"` for one; empty for tensors.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    other_shapes: tuple[tuple[int, ...], ...] = ()
    image: str = ""

    @property
    def meaning(self) -> str:
        """One sentence for a person."""
        return meaning_of(self.name, self.image)


@dataclass(frozen=True)
class FunctionSpec:
    """One function of a program.

    Attributes:
        name: In the program.
        inputs: In the order of the traced module's arguments.
        outputs: In the order in which it returns them.
        states: What the function keeps between predictions; buffers of the traced module under these names.
        view: Takes the program's module and gives what is traced of it; parameters are shared, not copied.
    """

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    states: tuple[ValueSpec, ...] = ()
    view: Callable[[nn.Module], nn.Module] = unchanged


@dataclass(frozen=True)
class ProgramSpec:
    """One `.mlpackage`: functions of fixed shape over one copy of the weights.

    Attributes:
        name: Its file's name without the suffix.
        functions: One at least; the first is the default.
        precision: Of weights and arithmetic.
        compute_units: The default when it is loaded.
        class_labels: Labels of a Core ML classifier; None for any other program.
    """

    name: str
    functions: tuple[FunctionSpec, ...]
    precision: str = "float16"
    compute_units: str = "cpu_and_ne"
    class_labels: tuple[str, ...] | None = None
