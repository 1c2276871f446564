"""A checkpoint's configuration, and the task that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from optimum.exporters.tasks import TasksManager
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils.generic import is_timm_config_dict
from transformers.utils.import_utils import is_timm_available

from optimum_ane.access_tokens import check_stored_token
from optimum_ane.checkpoints.configuration_checks import check_entries
from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.gguf import read_gguf_config
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.quantization import check_is_not_quantized
from optimum_ane.errors import ANEError, CheckpointError, UnsupportedModelError
from optimum_ane.exporters.config import supported_tasks
from optimum_ane.package.form import TEXT_TO_TEXT

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TIMM = "timm_wrapper"


def load_config(model: str, hub: HubOptions, gguf_file: str | None = None) -> PretrainedConfig:
    """Reads the configuration of a directory or a Hub id; nothing else is loaded.

    Args:
        model: Hub id or directory.
        hub: How to reach the Hub.
        gguf_file: Read it from the header of this GGUF file of the checkpoint, not from `config.json`.

    Raises:
        CheckpointError: It is missing or unreadable.
        UnsupportedModelError: transformers does not know the architecture, its weights are none that can be exported,
            such as quantised ones, or it is a model of timm, which is not installed.
    """
    check_place(model)
    check_token_of(model, hub)
    if gguf_file is not None:
        return read_gguf_config(model, gguf_file, hub)
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise CheckpointError(f"{model} holds no config.json; give a transformers checkpoint or a Hub id")
    with checkpoint_errors(model):
        return _read_config(model, hub)


def _read_config(model: str, hub: HubOptions) -> PretrainedConfig:
    try:
        # Before any class is made of them: that of a quantised or timm's checkpoint may want other libraries.
        entries, _ = transformers.PretrainedConfig.get_config_dict(model, **hub.as_arguments())
        check_entries(model, entries)
        _check_kind(model, entries, hub)
        return transformers.AutoConfig.from_pretrained(model, **hub.as_arguments())
    except StrictDataclassError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"{model}: config.json is damaged ({why:.300}); download it again") from error
    except (TypeError, AttributeError, RecursionError, ArithmeticError) as error:
        raise CheckpointError(f"{model}: config.json is damaged ({first_line(error)}); download it again") from error
    except ANEError:
        raise
    except ValueError as error:
        known = ", ".join(supported_tasks())
        raise UnsupportedModelError(f"{model}: {first_line(error)}; supported architectures: {known}") from error


def _check_kind(model: str, entries: Mapping[str, Any], hub: HubOptions) -> None:
    # timm's own files name no model type.
    is_of_timm = entries.get("model_type", _TIMM if is_timm_config_dict(dict(entries)) else None) == _TIMM
    if is_of_timm and not is_timm_available():
        raise UnsupportedModelError(
            f"{model} is a model of timm ({_TIMM}), whose modules are timm's own, and timm is not installed; "
            "pip install timm, or take a checkpoint of the same architecture that was trained with transformers"
        )
    check_is_not_quantized(model, entries, hub)


def expand_home(place: str) -> str:
    """A path with the home directory for `~`; a Hub id as it is."""
    return str(Path(place).expanduser()) if place.startswith("~") else place


def check_token_of(model: str, hub: HubOptions) -> None:
    """Refuses a stored token that no request can bear, where requests are to be made.

    Raises:
        CheckpointError: It holds other than ASCII characters, say.
    """
    if hub.token is None and not Path(model).is_dir():
        check_stored_token(CheckpointError)


def check_place(model: str) -> None:
    """Refuses what is neither a directory nor like a Hub id.

    Raises:
        CheckpointError: There is no such directory, or it is a file.
    """
    path = Path(model)
    if not path.exists() and (model.startswith((".", "/")) or model.endswith("/") or model.count("/") > 1):
        raise CheckpointError(f"there is no directory {model}")
    if path.is_file():
        named = f" with --model, and the file with --gguf-file {path.name}" if path.suffix == ".gguf" else ""
        raise CheckpointError(f"{model} is a file; give the directory that holds it{named}")


def resolve_task(task: str, config: PretrainedConfig) -> str:
    """Turns `"auto"` into the task of the checkpoint's own class, and a synonym into Optimum's name.

    Raises:
        UnsupportedModelError: `"auto"` was asked for and the configuration does not tell.
    """
    if task != "auto":
        return TasksManager.map_from_synonym(task)
    architectures = getattr(config, "architectures", None) or []
    model_class = getattr(transformers, architectures[0], None) if architectures else None
    if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
        raise UnsupportedModelError(f"config.json names no known class (architectures: {architectures}); give --task")
    if model_class.__name__ in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        return "zero-shot-image-classification"  # what makes pairs of encoders of use; Optimum says feature extraction
    return infer_task(model_class)


def infer_task(model_class: type) -> str:
    """Tells the task of a transformers model class.

    Raises:
        UnsupportedModelError: Optimum knows no task for it.
    """
    if model_class.__name__ in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
        return TEXT_TO_TEXT  # BART's, which fills masks too, is the same class
    try:
        return TasksManager.infer_task_from_model(model_class, library_name="transformers")
    except ValueError as error:
        raise UnsupportedModelError(f"no task is known for {model_class.__name__}; give it with --task") from error
