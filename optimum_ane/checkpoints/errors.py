"""What transformers, safetensors and the Hub raise, as one line that names the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from safetensors import SafetensorError

from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.checkpoints.hub_answers import answers_checked
from optimum_ane.errors import CheckpointError, UnsupportedModelError


@contextmanager
def checkpoint_errors(model: str) -> Iterator[None]:
    """Turns what a block raises into one line, and keeps transformers' reports and bars off the screen meanwhile.

    Args:
        model: The Hub id or directory, for the message.

    Raises:
        CheckpointError: Files are missing, out of reach, truncated or corrupt.
        UnsupportedModelError: transformers has no class for what was asked.
    """
    with tokens_hidden(), answers_checked(model, CheckpointError), _quiet():
        try:
            yield
        except SafetensorError as error:
            raise CheckpointError(
                f"{model}: the weights are truncated or corrupt ({error}); download the checkpoint again"
            ) from error
        except OSError as error:
            remedy = "" if Path(model).is_dir() else "; check the id, the token and the network, or give a directory"
            raise CheckpointError(f"{model}: {first_line(error)}{remedy}") from error
        except KeyError as error:
            raise UnsupportedModelError(f"{model}: {error.args[0]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    logging = transformers.logging
    verbosity, shows_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bar:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, without its full stop; its class where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
