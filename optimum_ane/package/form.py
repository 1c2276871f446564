"""What an export is asked for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optimum_ane.errors import ShapeError, UnsupportedModelError

Precision = Literal["float16", "float32"]
PRECISIONS = ("float16", "float32")
COMPUTE_UNITS = ("cpu_and_ne", "all", "cpu_and_gpu", "cpu_only")
POOLING_MODES = ("mean", "cls")


@dataclass(frozen=True)
class ExportSpec:
    """The shape and form of one package.

    Attributes:
        task: A task of Optimum's, `"text-classification"` for one.
        sequence_length: Tokens per row; the package takes exactly this many, padding included.
        batch_size: Rows per prediction.
        precision: Of weights and arithmetic; the Neural Engine takes float16 only.
        minimum_deployment_target: Oldest system that runs the package, by coremltools' name (`"iOS16"`).
        compute_units: The default when the package is loaded; not part of the program.
        class_labels: Make it a Core ML classifier with the checkpoint's own labels.
        pooling: Give one vector per row in place of the hidden states; feature extraction only.
        normalize: Divide that vector by its Euclidean norm.
    """

    task: str
    sequence_length: int = 128
    batch_size: int = 1
    precision: Precision = "float16"
    minimum_deployment_target: str = "iOS16"
    compute_units: str = "cpu_and_ne"
    class_labels: bool = False
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ShapeError: A number out of range.
            UnsupportedModelError: Options that contradict each other or are not known.
        """
        for name in ("sequence_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name.replace('_', ' ')} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in PRECISIONS:
            raise UnsupportedModelError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.compute_units not in COMPUTE_UNITS:
            raise UnsupportedModelError(f"compute units {self.compute_units!r} are not {', '.join(COMPUTE_UNITS)}")
        if self.pooling is not None and self.pooling not in POOLING_MODES:
            raise UnsupportedModelError(f"pooling {self.pooling!r} is not one of {', '.join(POOLING_MODES)}")
        if self.pooling is not None and self.task != "feature-extraction":
            raise UnsupportedModelError(f"pooling is for the task feature-extraction, not for {self.task}")
        if self.normalize and self.pooling is None:
            raise UnsupportedModelError("normalize needs a pooling, mean or cls")
        if self.class_labels and self.task != "text-classification":
            raise UnsupportedModelError(f"class labels are for the task text-classification, not for {self.task}")
        if self.class_labels and self.batch_size != 1:
            raise ShapeError(f"a Core ML classifier takes one row, batch size {self.batch_size} was asked for")
