"""GGUF files, the weights of llama.cpp: read through transformers, which turns their blocks back into numbers.

What transformers 5.23 reads are decoders (Llama, Qwen, Gemma, Mistral, Phi-3, GPT-2 and their kin) and T5; of the
encoders none.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PACKAGES = ("gguf", "accelerate")
"""What transformers reads a GGUF file with."""


def check_gguf_is_readable(model: str, gguf_file: str, hub: HubOptions) -> None:
    """Refuses a GGUF file that is not there, and says what to install where it could not be read.

    Raises:
        CheckpointError: See above.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"a GGUF file is read with {' and '.join(missing)}; install it with `pip install optimum-ane[gguf]`"
        )
    if Path(model).is_dir() and not (Path(model) / gguf_file).is_file():
        found = ", ".join(sorted(path.name for path in Path(model).glob("*.gguf"))) or "none"
        raise CheckpointError(f"{model} holds no {gguf_file}; GGUF files that are there: {found}")


def gguf_argument(model: str, gguf_file: str | None) -> dict[str, Any]:
    """The file under the name of transformers' `from_pretrained`, which would else look in the working directory."""
    if gguf_file is None:
        return {}
    return {"gguf_file": str((Path(model) / gguf_file).resolve()) if Path(model).is_dir() else gguf_file}


def dequantizing_arguments(model: str, gguf_file: str | None) -> dict[str, Any]:
    """Arguments with which transformers' `from_pretrained` gives the model of a GGUF file with weights as usual."""
    if gguf_file is None:
        return {}
    from transformers import GgufConfig

    return gguf_argument(model, gguf_file) | {"quantization_config": GgufConfig(dequantize=True)}


def name_model_class(config: PretrainedConfig) -> None:
    """Fills in, in place, the class that a GGUF file does not name: a language model, as its architecture is one.

    T5 and its kin are no such, and keep no class: their task has to be given.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if not config.architectures and name is not None:
        config.architectures = [name]
