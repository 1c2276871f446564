"""From a transformers model in memory to its Neural Engine module, weights and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum.exporters.tasks import TasksManager

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from optimum_ane.exporters.config import ANEConfig


def infer_task(model_class: type) -> str:
    """Tells the task of a transformers model class.

    Raises:
        UnsupportedModelError: Optimum knows no task for it.
    """
    try:
        return TasksManager.infer_task_from_model(model_class, library_name="transformers")
    except ValueError as error:
        raise UnsupportedModelError(f"no task is known for {model_class.__name__}; give it with --task") from error


def convert_to_ane(model: PreTrainedModel, task: str | None = None) -> nn.Module:
    """Takes a transformers model and returns the Neural Engine module with its weights.

    The weights that need no change are shared with `model`, not copied. The module computes in float32, whatever the
    model's type.

    Args:
        model: A model of a supported architecture, with its weights.
        task: The task; None infers it from the model's class.

    Returns:
        A module in evaluation mode that takes `input_ids`, `attention_mask` and, where the architecture has them,
        `token_type_ids`, each (B, S) and integer, and computes in (B, C, 1, S) inside.

    Raises:
        UnsupportedModelError: The architecture is not known, or not for this task.
        CheckpointError: The weights do not fit the configuration.
    """
    task = infer_task(type(model)) if task is None else TasksManager.map_from_synonym(task)
    ane_config = get_ane_config_class(model.config.model_type, task)(model.config, task)
    return load_module(ane_config, model)


def load_module(ane_config: ANEConfig, model: PreTrainedModel) -> nn.Module:
    """Builds the module of an export configuration and gives it the weights of `model`; see `convert_to_ane`."""
    ane_config.check(sequence_length=1)
    try:
        module = ane_config.make_module()
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from error
    try:
        # transformers loads weights as they are stored, which is float16 for many checkpoints.
        weights = {name: value.float() for name, value in model.state_dict().items()}
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the configuration: {error}") from error
    return module.requires_grad_(False)
