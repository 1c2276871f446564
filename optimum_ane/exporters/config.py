"""`ANEConfig`: what an architecture states of itself so that it can be exported."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedConfig

from optimum_ane.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec
    from optimum_ane.package.form import ExportForm

EXPORTER = "ane"
"""Our name in Optimum's `TasksManager`."""

_CONFIGS: dict[str, type[ANEConfig]] = {}
_ANEConfigT = TypeVar("_ANEConfigT", bound="type[ANEConfig]")


def register_for_ane(model_type: str) -> Callable[[_ANEConfigT], _ANEConfigT]:
    """Registers an `ANEConfig` for a `model_type` with Optimum's `TasksManager`, under the tasks of its `MODULES`."""

    def decorator(config_class: _ANEConfigT) -> _ANEConfigT:
        if model_type in _CONFIGS:
            raise ValueError(f"model type {model_type!r} is registered twice")
        _CONFIGS[model_type] = config_class
        register = TasksManager.create_register(EXPORTER)
        return register(model_type, *config_class.MODULES, library_name="transformers")(config_class)

    return decorator


def supported_tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of each registered `model_type`, both sorted."""
    return {model_type: tuple(sorted(_CONFIGS[model_type].MODULES)) for model_type in sorted(_CONFIGS)}


def get_ane_config_class(model_type: str, task: str) -> type[ANEConfig]:
    """Looks up the export configuration of an architecture for a task.

    Raises:
        UnsupportedModelError: The architecture is not known, or not for this task; the message lists what is.
    """
    if model_type not in _CONFIGS:
        known = ", ".join(supported_tasks())
        raise UnsupportedModelError(
            f"architecture {model_type!r} is not supported for the Neural Engine; known: {known}"
        )
    config_class = _CONFIGS[model_type]
    if task not in config_class.MODULES:
        known = ", ".join(sorted(config_class.MODULES))
        raise UnsupportedModelError(f"task {task!r} is not supported for {model_type}; known: {known}")
    return config_class


class ANEConfig(ExporterConfig, ABC):
    """Export configuration of one architecture.

    Args:
        config: The checkpoint's configuration.
        task: One of `MODULES`.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    MODULES: ClassVar[Mapping[str, type[nn.Module]]] = {}
    """The Neural Engine module of each task."""
    UNUSED_WEIGHTS: ClassVar[Mapping[str, str]] = {}
    """Parts of the checkpoint that its programs leave out, beside those of `unused_weights.UNUSED_WEIGHTS`, each with
    the reason: by regular expressions that must match the whole path of a module or of a tensor."""
    METHOD: ClassVar[str] = "handwritten"
    """How its programs come to be; manifest and card say it, and nothing else asks."""

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """The programs of a package of this form.

        Raises:
            UnsupportedModelError: The form asks for what the checkpoint cannot give.
        """
        raise NotImplementedError

    def check(self, form: ExportForm) -> None:
        """Refuses what cannot be exported, before any work is done.

        Raises:
            ShapeError: A number that cannot work; the message holds it and the limit.
            UnsupportedModelError: The configuration asks for a variant that is not implemented.
        """
        raise NotImplementedError

    def make_module(self, program: str = "model") -> nn.Module:
        """Builds the module of a program, without memory for its parameters (on torch's meta device)."""
        with torch.device("meta"):
            return self.MODULES[self.task](self._config).eval()

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """Makes seeded inputs as transformers takes them, odd cases included.

        Returns:
            Batches of keyword arguments for the original and for the model class; together they reach every function.
        """
        raise NotImplementedError

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """Makes seeded inputs of one function, of the declared shapes and types, in the order of its arguments."""
        raise NotImplementedError

    def host_constants(self) -> Mapping[str, str]:
        """Values of the checkpoint that belong to no program: the name in the manifest, by that of the weight.

        They count as used when the weights are loaded, and the model class computes with them.
        """
        return {}
