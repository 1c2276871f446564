"""`ANEConfig`: what an architecture states of itself so that it can be exported."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedConfig

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.package.form import ExportForm
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import BaseImageProcessor, FeatureExtractionMixin, PretrainedConfig, PreTrainedTokenizerBase

    from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec
    from optimum_ane.package.manifest import Manifest

    Processor: TypeAlias = BaseImageProcessor | FeatureExtractionMixin
    """What makes inputs of images or of sounds."""

EXPORTER = "ane"
"""Our name in Optimum's `TasksManager`."""

_CONFIGS: dict[str, type[ANEConfig]] = {}
_GRAPH_CONFIGS: dict[str, dict[str, type[ANEConfig]]] = {}
"""By `model_type` and task: what exports stock modules by their graph."""
_ANEConfigT = TypeVar("_ANEConfigT", bound="type[ANEConfig]")


def register_for_ane(model_type: str) -> Callable[[_ANEConfigT], _ANEConfigT]:
    """Registers an `ANEConfig` for a `model_type` with Optimum's `TasksManager`, under the tasks of its `MODULES`."""

    def decorator(config_class: _ANEConfigT) -> _ANEConfigT:
        if model_type in _CONFIGS:
            raise ValueError(f"model type {model_type!r} is registered twice")
        _CONFIGS[model_type] = config_class
        # What is written by hand comes before what goes by the graph, in whichever order they are registered.
        register = TasksManager.create_register(EXPORTER, overwrite_existing=True)
        return register(model_type, *config_class.MODULES, library_name="transformers")(config_class)

    return decorator


def register_graph(config_class: type[ANEConfig], model_type: str, tasks: Iterable[str]) -> None:
    """Registers what exports the stock modules of a `model_type` by their graph, with the `TasksManager` too.

    Args:
        config_class: Of the modality.
        model_type: As transformers names it.
        tasks: Optimum's names; a task of the same model type may belong to one class only.
    """
    own = _GRAPH_CONFIGS.setdefault(model_type, {})
    for task in tasks:
        if own.setdefault(task, config_class) is not config_class:
            raise ValueError(f"{model_type!r} is registered twice for {task}")
        TasksManager.create_register(EXPORTER)(model_type, task, library_name="transformers")(config_class)


def supported_tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of each `model_type` that has hand-written modules, both sorted."""
    return {model_type: tuple(sorted(_CONFIGS[model_type].MODULES)) for model_type in sorted(_CONFIGS)}


def graph_tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of each `model_type` that can be tried by graph, both sorted."""
    return {model_type: tuple(sorted(_GRAPH_CONFIGS[model_type])) for model_type in sorted(_GRAPH_CONFIGS)}


def get_ane_config_class(model_type: str, task: str, method: str = "handwritten") -> type[ANEConfig]:
    """Looks up the export configuration of an architecture for a task.

    Args:
        model_type: As transformers names it.
        task: Optimum's name.
        method: `"handwritten"`, `"graph"`, or `"auto"`: the former where there is one.

    Raises:
        UnsupportedModelError: The architecture is not known, or not for this task; the message lists what is.
    """
    by_hand = _CONFIGS.get(model_type)
    by_graph = _GRAPH_CONFIGS.get(model_type, {})
    if method != "graph" and by_hand is not None and task in by_hand.MODULES:
        return by_hand
    if method != "handwritten" and task in by_graph:
        return by_graph[task]
    advice = "; --method graph exports it by its graph" if task in by_graph else ""
    if method == "handwritten" and by_hand is None:
        known = ", ".join(supported_tasks())
        raise UnsupportedModelError(
            f"architecture {model_type!r} is not supported for the Neural Engine by a hand-written module; known: "
            f"{known}{advice}"
        )
    if by_hand is None and not by_graph:
        known = ", ".join(supported_tasks())
        raise UnsupportedModelError(
            f"architecture {model_type!r} is not supported for the Neural Engine, nor has transformers a model of it "
            f"for a task of this library; written by hand are: {known}. Any model in memory goes as a plain module: "
            "export(model, output, example_inputs=…)"
        )
    tasks = set() if by_hand is None or method == "graph" else set(by_hand.MODULES)
    known = ", ".join(sorted(tasks if method == "handwritten" else tasks | by_graph.keys()))
    raise UnsupportedModelError(f"task {task!r} is not supported for {model_type}; known: {known}{advice}")


def ane_config_of(manifest: Manifest, config: PretrainedConfig) -> ANEConfig:
    """The export configuration that a package was made with.

    Args:
        manifest: The package's.
        config: The checkpoint's configuration, which the package holds.

    Raises:
        UnsupportedModelError: This version does not know its architecture.
    """
    task = manifest.form.task
    ane_config = get_ane_config_class(manifest.model_type, task, manifest.method)(config, task)
    ane_config.limit_inputs({entry.name for function in manifest.functions for entry in function.inputs})
    ane_config.restore(manifest)
    return ane_config


_OPTIONS_OF: Mapping[Modality, tuple[str, ...]] = {
    "text": ("sequence_length", "pooling", "normalize"),
    "image": ("image_size", "image_input"),
    "audio": ("audio_length",),
}
"""The options of a form that are for rows of one kind."""


def check_options(form: ExportForm, modality: Modality) -> None:
    """Refuses options that mean nothing for rows of this kind.

    Raises:
        UnsupportedModelError: The message names the option.
    """
    default = ExportForm()
    for kind, names in _OPTIONS_OF.items():
        is_of_others = kind not in modality.split("-")
        given = [name for name in names if is_of_others and getattr(form, name) != getattr(default, name)]
        if given:
            rows = {
                "text": "rows of tokens", "image": "images", "audio": "sounds", "image-text": "texts and images",
                "audio-text": "sounds",
            }  # fmt: skip
            raise UnsupportedModelError(
                f"--{given[0].replace('_', '-')} is for {rows[kind]}, and this checkpoint takes {rows[modality]} for "
                f"{form.task}; leave it out"
            )


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
    MODALITY: ClassVar[Modality] = "text"
    """What its rows are."""
    METHOD: ClassVar[str] = "handwritten"
    """How its programs come to be: `"handwritten"`, of a module of `MODULES`, or `"graph"`, of the original."""

    def limit_inputs(self, available: Collection[str]) -> None:
        """Leaves out optional inputs that a tokenizer does not give, or that a package does not take.

        Args:
            available: The names that there are; of inputs that an architecture needs in any case some may be absent.
        """

    def restore(self, manifest: Manifest) -> None:
        """Takes up again what `complete` learned of the checkpoint when a package was made, from its manifest."""

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """Fills in what the checkpoint itself decides of a form, such as the size of its images.

        Args:
            form: What was asked for.
            processor: What makes inputs of images or sounds; None for text, or without one.

        Raises:
            UnsupportedModelError: The form has an option that is for other rows than these, or what it leaves open
                nothing tells.
        """
        check_options(form, self.MODALITY)
        return form

    def adapt_processor(self, processor: Processor | None) -> Processor | None:
        """The processor that makes the package's inputs, where the checkpoint's own makes inputs of another kind."""
        return processor

    def adapt_tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the package, where the checkpoint's own lacks what is asked of it.

        Raises:
            CheckpointError: There is none, and there has to be one, or it does not fit.
        """
        return tokenizer

    def part_of(self, original: nn.Module) -> nn.Module:
        """What of the original a package is made of and compared with: all of it, or its encoder."""
        return original

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

    def host_constants(self, original: nn.Module) -> Mapping[str, float]:
        """Values of the checkpoint that belong to no program and that the model class computes with, by name.

        Raises:
            UnsupportedModelError: The original lacks what the model class needs.
        """
        return {}
