"""The export configuration of every text model of transformers that goes by its graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

from optimum.exporters.tasks import TasksManager

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.programs import ProgramSpec
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.exporters.text import TextANEConfig
from optimum_ane.nn.pooling import SentencePooling
from optimum_ane.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from optimum_ane.package.form import ExportForm

_OPTIONAL = ("token_type_ids",)
"""Inputs that an original may do without: taken where the tokenizer gives them."""


class StockTextANEConfig(TextANEConfig):
    """Inputs are those that both the original's `forward` and the tokenizer have, outputs the fields of the task."""

    METHOD: ClassVar[str] = "graph"

    @cached_property
    def text_config(self) -> PretrainedConfig:
        """The part of the configuration that is about text: most are about nothing else."""
        return self._config.get_text_config()

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `TextANEConfig.input_names`."""
        taken = _arguments(self._config, self.task)
        return tuple(name for name in super().input_names if name in taken and name not in self._left_out)

    _left_out: frozenset[str] = frozenset()

    def limit_inputs(self, available: Collection[str]) -> None:
        """See `ANEConfig.limit_inputs`."""
        self._left_out = frozenset(_OPTIONAL).difference(available)

    @property
    def padding_id(self) -> int:
        """See `TextANEConfig.padding_id`."""
        return self.text_config.pad_token_id or 0

    @property
    def vocab_size(self) -> int:
        """See `TextANEConfig.vocab_size`."""
        return self.text_config.vocab_size

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        for name in ("input_ids", "attention_mask"):
            if name not in self.input_names:
                raise UnsupportedModelError(
                    f"the forward of {self._config.model_type} takes no {name}: padded rows could not be told from "
                    "full ones, and a program has rows of one length"
                )
        if not isinstance(getattr(self.text_config, "vocab_size", None), int):
            raise UnsupportedModelError(f"the configuration of {self._config.model_type} states no vocab_size")
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if isinstance(positions, int) and 0 < positions < form.longest:
            raise ShapeError(
                f"sequence length {form.longest} is above the {positions} positions of this checkpoint; choose "
                f"--sequence-length {positions} or less"
            )

    def view(self, form: ExportForm, length: int) -> Callable[[nn.Module], nn.Module]:
        """See `TextANEConfig.view`."""
        return partial(_pooled, form=form)

    def wrap(self, original: PreTrainedModel, program: ProgramSpec) -> StockModule:
        """Puts the original behind the interface of a program's module.

        Args:
            original: The transformers model of the task, in float32 and evaluation mode; it is not copied.
            program: One of `programs`.
        """
        task = TASKS[self.task]
        outputs = [field.name for field in task.fields]
        module = StockModule(original, self.input_names, outputs, adds_choices=task.has_choices)
        shortest = min(program.functions, key=lambda function: function.inputs[0].shape or ())
        module.learn_layers(self.function_inputs(shortest))
        return module


def _pooled(module: nn.Module, form: ExportForm) -> nn.Module:
    if form.pools and module.sentence_pooling is None:
        module.sentence_pooling = SentencePooling(form.pooling, form.normalize)
    return module


def _arguments(config: PretrainedConfig, task: str) -> frozenset[str]:
    """The arguments of the forward of a task's model; none where transformers has no model of it."""
    auto_class = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    found = auto_class._model_mapping.get(type(config), None)
    classes = found if isinstance(found, tuple | list) else [found]
    named = [each for each in classes if each is not None and each.__name__ in (config.architectures or ())]
    model_class = next(iter(named), classes[0])
    return frozenset() if model_class is None else frozenset(inspect.signature(model_class.forward).parameters)
