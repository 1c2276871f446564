"""GGUF files, the weights of llama.cpp: read through transformers, which turns their blocks back into numbers.

What transformers 5.23 reads are decoders (Llama, Qwen, Gemma, Mistral, Phi-3, GPT-2 and their kin) and T5; of the
encoders none.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.hub_files import find_file
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PACKAGES = ("gguf", "accelerate")
"""What transformers reads a GGUF file with."""


def read_gguf_config(model: str, gguf_file: str, hub: HubOptions) -> PretrainedConfig:
    """Reads the configuration from the header of a GGUF file.

    It names no class. That of a language model is filled in where the architecture is one; T5 and its kin are none,
    and their task has to be given.

    Args:
        model: Hub id or directory.
        gguf_file: The file's name there.
        hub: How to reach the Hub.

    Raises:
        CheckpointError: It is missing or damaged, or what reads such files is not installed.
        UnsupportedModelError: transformers does not read its architecture from GGUF files.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"a GGUF file is read with {' and '.join(missing)}; install it with `pip install optimum-ane[gguf]`"
        )
    with checkpoint_errors(model):
        path = find_file(model, gguf_file, hub)
        if path is None:
            found = ", ".join(sorted(each.name for each in Path(model).glob("*.gguf"))) or "none"
            raise CheckpointError(f"{model} holds no {gguf_file}; GGUF files that are there: {found}")
        try:
            config = transformers.AutoConfig.from_pretrained(
                model, **gguf_argument(model, gguf_file), **hub.as_arguments()
            )
        except Exception as error:  # the reader checks no bounds: anything may come of a damaged file
            if "not supported" in str(error):
                raise UnsupportedModelError(f"{path}: {first_line(error)}") from error
            raise CheckpointError(f"{path} is damaged ({first_line(error)}); download it again") from error
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if not config.architectures and name is not None:
        config.architectures = [name]
    return config


def gguf_argument(model: str, gguf_file: str | None) -> dict[str, Any]:
    """The file under the name of transformers' `from_pretrained`, which would else look in the working directory."""
    if gguf_file is None:
        return {}
    return {"gguf_file": str((Path(model) / gguf_file).resolve()) if Path(model).is_dir() else gguf_file}


def quiet_reader() -> AbstractContextManager[Any]:
    """Keeps the reader's bars and warnings off the screen, which transformers' own settings do not reach."""
    return redirect_stderr(io.StringIO())


def dequantizing_arguments(model: str, gguf_file: str | None) -> dict[str, Any]:
    """Arguments with which transformers' `from_pretrained` gives the model of a GGUF file with weights as usual."""
    if gguf_file is None:
        return {}
    return gguf_argument(model, gguf_file) | {"quantization_config": transformers.GgufConfig(dequantize=True)}
