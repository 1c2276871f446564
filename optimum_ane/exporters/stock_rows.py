"""The base of export configurations whose rows are tensors of one fixed shape: images, sounds, spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_ane.exporters.class_labels import class_labels_of
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock import StockANEConfig
from optimum_ane.exporters.text import MAIN
from optimum_ane.tasks import task_row

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.package.form import ExportForm

_ROWS, _ROWS_OF_SCORES = 4, 8
"""Rows of the examples. A task that gives a few numbers per row needs more of them: else a ratio says little."""
_MANY_SCORES = 100


class StockRowsANEConfig(StockANEConfig):
    """One program of one function; numbers go in as float32, which the program rounds itself."""

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names and axes, in the order of the module's arguments."""
        return {name: {0: "batch_size"} for name in self.input_names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Output names and axes, in the order in which the module returns them."""
        return {field.name: {0: "batch_size"} for field in task_row(self.task, modality=self.MODALITY).fields}

    def input_shapes(self, form: ExportForm) -> dict[str, tuple[int, ...]]:
        """The shape of one row of each input, in the order of `input_names`."""
        raise NotImplementedError

    def image_layout(self, name: str, form: ExportForm) -> str:
        """The colour layout of an input that is one of Core ML's images; empty for tensors."""
        return ""

    def further_outputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """What a program gives beside the fields of the task's output; see `StockANEConfig.finish`."""
        return ()

    def make_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """Makes seeded inputs that differ in kind, those at the edge of what there is among them.

        Args:
            count: How many rows.
            shapes: Of one row of each input.
            seed: Of everything that is random.

        Returns:
            (count, …) each, float32, and int32 for masks.
        """
        raise NotImplementedError

    def program_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """The same inputs as the program takes them, where it does itself what a processor does."""
        return self.make_rows(count, shapes, seed)

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        inputs = tuple(
            ValueSpec(
                name,
                (form.batch_size, *shape),
                "int32" if name.endswith("_mask") else "float32",
                image=self.image_layout(name, form),
            )
            for name, shape in self.input_shapes(form).items()
        )
        fields = task_row(self.task, modality=self.MODALITY).fields
        types = {field.in_package: "float32" if field.is_float32 else form.precision for field in fields}
        outputs = (*(ValueSpec(name, None, dtype) for name, dtype in types.items()), *self.further_outputs(form))
        function = FunctionSpec(MAIN, inputs, outputs)
        labels = class_labels_of(self._config) if form.class_labels else None
        return (ProgramSpec("model", (function,), form.precision, form.compute_units, labels),)

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """See `ANEConfig.examples`: one batch, of rows of every kind."""
        is_few = self.task.endswith("-classification") and self._config.num_labels < _MANY_SCORES
        rows = self.make_rows(_ROWS_OF_SCORES if is_few else _ROWS, self.input_shapes(form), seed)
        return ({name: value if value.is_floating_point() else value.long() for name, value in rows.items()},)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        shapes = {value.name: value.shape or () for value in function.inputs}
        ((rows,),) = {shape[:1] for shape in shapes.values()}
        return self.program_rows(rows, {name: shape[1:] for name, shape in shapes.items()}, seed)
