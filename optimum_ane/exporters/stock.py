"""The base of the export configurations that make programs of the original's own graph, whatever its rows are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from optimum.exporters.tasks import TasksManager

from optimum_ane.exporters.config import ANEConfig
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.tasks import task_row

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from optimum_ane.exporters.programs import ProgramSpec


class StockANEConfig(ANEConfig):
    """Inputs are arguments of the original's own `forward`, outputs fields of its `ModelOutput`."""

    METHOD: ClassVar[str] = "graph"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the inputs, in the order of the module's arguments."""
        raise NotImplementedError

    def wrap(self, original: nn.Module, program: ProgramSpec) -> StockModule:
        """Puts the original behind the interface of a program's module.

        Args:
            original: The transformers model of the task, in float32 and evaluation mode; it is not copied.
            program: One of `programs`.
        """
        task = task_row(self.task, modality=self.MODALITY)
        outputs = [field.name for field in task.fields]
        module = self.module_class(
            original,
            self.input_names,
            outputs,
            adds_choices=task.has_choices,
            prepare=self.prepare(program),
            finish=self.finish(program),
        )
        shortest = min(program.functions, key=lambda function: function.inputs[0].shape or ())
        module.learn_layers(self.function_inputs(shortest))
        return module

    @property
    def module_class(self) -> type[StockModule]:
        """What the original is put behind."""
        return StockModule

    def prepare(self, program: ProgramSpec) -> Mapping[str, nn.Module]:
        """What a program does to its inputs before the original's own graph, by the inputs' names."""
        return {}

    def finish(self, program: ProgramSpec) -> nn.Module | None:
        """What makes a program's further outputs of those of the original; None where it has none."""
        return None

    def forward_arguments(self) -> Sequence[str]:
        """The arguments of the forward of the task's model; none where transformers has no model of it."""
        model_class = original_class(self._config, self.task)
        return () if model_class is None else tuple(inspect.signature(model_class.forward).parameters)


def original_class(config: PretrainedConfig, task: str) -> type[nn.Module] | None:
    """The class of transformers that a checkpoint is of for a task; None where there is none."""
    auto_class = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    found = auto_class._model_mapping.get(type(config), None)
    classes = found if isinstance(found, tuple | list) else [found]
    named = [each for each in classes if each is not None and each.__name__ in (config.architectures or ())]
    return next(iter(named), classes[0])
