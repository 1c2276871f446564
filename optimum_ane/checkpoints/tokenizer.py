"""A checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.gguf import gguf_argument
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds a tokenizer."""
    return any((directory / name).is_file() for name in _FILES)


def load_tokenizer(model: str, hub: HubOptions, gguf_file: str | None = None) -> PreTrainedTokenizerBase | None:
    """Loads the tokenizer of a directory or a Hub id.

    Args:
        model: Hub id or directory.
        hub: How to reach the Hub.
        gguf_file: Read it from this GGUF file of the checkpoint.

    Returns:
        The tokenizer; None where a directory holds none.

    Raises:
        CheckpointError: It cannot be read.
    """
    if gguf_file is None and Path(model).is_dir() and not has_tokenizer(Path(model)):
        return None
    with checkpoint_errors(model):
        try:
            return transformers.AutoTokenizer.from_pretrained(
                model, **gguf_argument(model, gguf_file), **hub.as_arguments()
            )
        except OSError:
            raise
        except Exception as error:  # the tokenizers library raises no class of its own
            raise CheckpointError(
                f"{model}: the tokenizer cannot be read ({first_line(error)}); download the checkpoint again"
            ) from error
