"""The model classes by task, and their registration with transformers."""

from __future__ import annotations

import transformers
from transformers import PretrainedConfig

from optimum_ane.modeling import text
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.custom import ANEModelForCustomTasks
from optimum_ane.package.form import CUSTOM
from optimum_ane.tasks import TASKS


def model_class_of(task: str) -> type[ANEModel]:
    """The class that loads packages of a task."""
    if task == CUSTOM:
        return ANEModelForCustomTasks
    return getattr(text, TASKS[task].model_class)


def register() -> None:
    """Registers the model classes with transformers, whose pipelines log an error for any that they do not know.

    The key is a configuration class of our own, for the real ones are taken; `model.config` stays the real one.
    """
    for name, task in TASKS.items():
        model_class = model_class_of(name)
        key = type(f"ANE{name.title().replace('-', '')}Config", (PretrainedConfig,), {"model_type": f"ane-{name}"})
        model_class.config_class = key
        getattr(transformers, task.auto_class).register(key, model_class)
