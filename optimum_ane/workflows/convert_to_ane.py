"""From a transformers model in memory to its Neural Engine module, weights and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum.exporters.tasks import TasksManager

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.checkpoints.configuration import infer_task
from optimum_ane.checkpoints.original import check_is_plain, unwrap
from optimum_ane.checkpoints.weights import ModelWeights
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.exporters.load_module import build_module
from optimum_ane.package.form import ExportForm

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


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
    model = unwrap(model)
    task = infer_task(type(model)) if task is None else TasksManager.map_from_synonym(task)
    ane_config = get_ane_config_class(model.config.model_type, task)(model.config, task)
    ane_config.check(ExportForm(task, sequence_length=(1,)))
    check_is_plain(model)
    return build_module(ane_config, "model", ModelWeights(model)).module
