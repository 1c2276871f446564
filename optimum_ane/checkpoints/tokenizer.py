"""A checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.gguf import gguf_argument
from optimum_ane.checkpoints.hub_files import find_file
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
"""A tokenizer has at least one of them."""
_MORE_FILES = (
    *("merges.txt", "sentencepiece.bpe.model", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)


def fetch_tokenizer(model: str, hub: HubOptions) -> bool:
    """Downloads the tokenizer's files alone, for a repository from which transformers would want a `config.json`.

    Returns:
        Whether there is a tokenizer.
    """
    with checkpoint_errors(model):
        paths = {name: find_file(model, name, hub) for name in (*_FILES, *_MORE_FILES)}
    return any(paths[name] is not None for name in _FILES)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None) -> None:
    """Refuses a tokenizer that gives ids for which the model has no row.

    Args:
        tokenizer: The checkpoint's, or the one that was given with a model.
        vocab_size: Rows of the model's table; None where the configuration does not say.

    Raises:
        CheckpointError: The message names the first such token and both numbers.
    """
    if vocab_size is None:
        return
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= vocab_size)
    if beyond:
        index, token = beyond[0]
        raise CheckpointError(
            f"the tokenizer does not fit the model: it gives {index} for {token!r:.60}, and the vocabulary of "
            f"config.json has {vocab_size} words; give the tokenizer that the model was trained with"
        )


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
    if gguf_file is None and Path(model).is_dir() and not fetch_tokenizer(model, hub):
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
