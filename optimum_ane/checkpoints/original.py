"""The original: the transformers model in float32 and evaluation mode, which every answer is compared with."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from optimum.exporters.tasks import TasksManager
from torch import nn
from transformers import PreTrainedModel

from optimum_ane.checkpoints.declared_size import check_declared_layers, check_declared_size, weight_bytes_of
from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.gguf import dequantizing_arguments, quiet_reader
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.weight_checks import check_weights
from optimum_ane.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


_OF_CONFIGURATION = (ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, LookupError)
"""What transformers and torch raise of entries that contradict each other, or that no model has."""


def _no_model(model: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{model}: transformers makes no model of config.json ({first_line(error)[:200]}); mend that entry, or "
        "download the checkpoint again"
    )


def make_empty_model(task: str, config: PretrainedConfig, hub: HubOptions) -> PreTrainedModel:
    """Makes the transformers model of a task without memory for its weights, on torch's meta device."""
    model_class = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    try:
        with torch.device("meta"):
            return model_class.from_config(config, trust_remote_code=hub.trust_remote_code)
    except _OF_CONFIGURATION as error:
        raise _no_model(config.name_or_path or config.model_type, error) from error


def make_checked_empty_model(
    model: str, task: str, config: PretrainedConfig, hub: HubOptions, gguf_file: str | None = None
) -> PreTrainedModel:
    """Makes the empty model of a checkpoint, once its configuration was found to be no larger than its weights.

    Args:
        model: Hub id or directory.
        task: Optimum's name.
        config: Its configuration.
        hub: How to reach the Hub.
        gguf_file: The GGUF file of it that is read.

    Raises:
        CheckpointError: The configuration describes a model that the files cannot hold, or none at all; or an index of
            them is damaged.
    """
    weight_bytes = weight_bytes_of(model, hub, gguf_file)
    check_declared_layers(model, config, weight_bytes)
    empty = make_empty_model(task, config, hub)
    check_declared_size(model, empty, weight_bytes)
    return empty


def load_original(
    model: str,
    task: str,
    config: PretrainedConfig,
    hub: HubOptions,
    gguf_file: str | None = None,
    supplied: Collection[str] = (),
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Loads the original through transformers.

    Args:
        model: Hub id or directory.
        task: Optimum's name.
        config: Its configuration.
        hub: How to reach the Hub.
        gguf_file: Read this GGUF file of it.
        supplied: Weights that an adapter will bring.

    Returns:
        The model, and the names in the files that it has no use for.

    Raises:
        CheckpointError: A file is missing, truncated or corrupt, or weights and configuration contradict each other.
    """
    model_class = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    with checkpoint_errors(model), nullcontext() if gguf_file is None else quiet_reader():
        # Refuses a damaged index too, and names in it that lead out of the checkpoint.
        make_checked_empty_model(model, task, config, hub, gguf_file)
        # Mismatches are let through so that they can be named; transformers' own report is many lines long.
        try:
            loaded, info = model_class.from_pretrained(
                model,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **dequantizing_arguments(model, gguf_file),
                **hub.as_arguments(),
            )
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise CheckpointError(f"{model}: the weights cannot be read ({first_line(error)})") from error
        except _OF_CONFIGURATION as error:
            raise _no_model(model, error) from error
    left_out = check_weights(
        model, task, loaded, info["missing_keys"], info["mismatched_keys"], info["unexpected_keys"], supplied
    )
    return loaded.eval().requires_grad_(False), left_out


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside what `torch.compile`, `DataParallel` or `DistributedDataParallel` made of it.

    Raises:
        UnsupportedModelError: There is none inside.
    """
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, PreTrainedModel):
        wrapped = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if wrapped is None:
            break
        inner = wrapped
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedModelError(
            f"{type(model).__module__}.{type(model).__name__} is no transformers model; give a PreTrainedModel, a "
            "directory or a Hub id"
        )
    return inner


def check_is_plain(model: PreTrainedModel) -> None:
    """Refuses a model in memory whose state dict is not that of its class.

    Raises:
        UnsupportedModelError: Its weights are quantised, or adapters are not merged into them.
    """
    if getattr(model, "is_quantized", False):
        raise UnsupportedModelError(
            f"the weights of this {type(model).__name__} are quantised, which cannot be exported; export what "
            "`model.dequantize()` gives, or the original that was not quantised"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            f"this {type(model).__name__} has adapters beside its weights; merge them first, with "
            "`PeftModel.merge_and_unload()` of peft, or give the adapter's directory to the export"
        )


_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def as_original(model: _ModuleT) -> _ModuleT:
    """A model in memory as an original: itself where it is in float32 and evaluation mode, else a copy that is."""
    floats = [value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
    if model.training or any(value.dtype != torch.float32 for value in floats):
        return copy.deepcopy(model).float().eval()
    return model
