"""The model classes by task, and their registration with transformers."""

from __future__ import annotations

import transformers
from transformers import PretrainedConfig

from optimum_ane import modeling
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.custom import ANEModelForCustomTasks
from optimum_ane.package.form import CUSTOM
from optimum_ane.tasks import Task, all_rows, task_row

_NAMES_COPIED = {"image-segmentation", "object-detection"}
"""Tasks whose pipelines copy the names of transformers' mapping, and so see nothing that was registered with it."""


def model_class_of(task: str, modality: str = "text") -> type[ANEModel]:
    """The class that loads packages of a task, whose rows are texts, images or sounds."""
    return ANEModelForCustomTasks if task == CUSTOM else _class_of(task_row(task, modality=modality))


def _class_of(row: Task) -> type[ANEModel]:
    return getattr(modeling, row.model_class)


def register() -> None:
    """Registers the model classes with transformers, whose pipelines log an error for any that they do not know.

    The key is a configuration class of our own, for the real ones are taken; `model.config` stays the real one.
    """
    for task in all_rows():
        model_class = _class_of(task)
        name = model_class.__name__.removeprefix("ANEModelFor")
        model_type = f"ane-{name.lower()}"
        key = type(f"ANE{name}Config", (PretrainedConfig,), {"model_type": model_type})
        model_class.config_class = key
        auto_class = getattr(transformers, task.auto_class)
        auto_class.register(key, model_class)
        if task.name in _NAMES_COPIED:
            auto_class._model_mapping._model_mapping[model_type] = model_class.__name__
