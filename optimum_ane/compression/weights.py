"""The weights of a program: what reads each of them, and how they are found again after they were compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimum_ane.analysis.operations import Program, Tensor, read_program
from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.variants import weights_by_name

_FLOATS = ("float16", "float32")


@dataclass(frozen=True)
class Weight:
    """A float weight of the weight file.

    Attributes:
        name: In the program.
        dtype: `"float16"` or `"float32"`, of the decoded values.
        shape: The extents.
        stored_bytes: In the package.
        dense_bytes: Uncompressed.
        op_types: The types of the operations that do, each once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int
    dense_bytes: int
    op_types: tuple[str, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))


def read_weights(program: Program) -> dict[str, Weight]:
    """The float weights of a program that lie in its weight file, by name."""
    readers: dict[Tensor, list[str]] = {}
    for operation in program.operations:
        for tensor in operation.weights:
            if tensor.dtype in _FLOATS:
                readers.setdefault(tensor, []).append(operation.type)
    return {
        tensor.name: Weight(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tuple(extent or 1 for extent in tensor.shape),
            stored_bytes=tensor.stored_bytes or 0,
            dense_bytes=tensor.dense_bytes,
            op_types=tuple(dict.fromkeys(op_types)),
        )
        for tensor, op_types in readers.items()
    }


def find_again(before: Mapping[str, Weight], after: Mapping[str, Weight], path: Path) -> dict[str, Weight]:
    """Finds each weight in a compressed program, where it may be called `name_quantized` or the like.

    coremltools keeps a weight's name and appends to it; it does not keep the names of the operations that read it.

    Args:
        before: The weights of the program as it was.
        after: Those of the compressed one.
        path: The compressed package, for messages.

    Returns:
        The weights of the compressed program by their names before.

    Raises:
        PackageError: One is gone, or has another shape.
    """
    found = {}
    for name, weight in after.items():
        stem = name
        while stem not in before and "_" in stem:
            stem = stem.rpartition("_")[0]
        if stem in before and before[stem].shape == weight.shape:
            found[stem] = weight
    for name in before:
        if name not in found:
            raise PackageError(f"{path}: the weight {name} is gone from the compressed program")
    return found


class WeightValues:
    """The values of a package's weights, decoded when asked for.

    Args:
        mlpackage: The `.mlpackage` folder.
    """

    def __init__(self, mlpackage: Path) -> None:
        self.program = read_program(mlpackage)
        self.weights = read_weights(self.program)
        self._constants = weights_by_name(Package(mlpackage), self.program.function)

    def __getitem__(self, weight: Weight) -> np.ndarray:
        """The decoded values, of the weight's dtype and shape."""
        return self._constants[weight.name].array()
